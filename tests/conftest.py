"""Settings of the whole suite."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

import dlm
from tests.browser import chromium

# Machines are shared and slow at times: what is tested is the answer, never how long it took.
settings.register_profile("dlm", deadline=None)
settings.load_profile("dlm")

# The package looks its names up when they are first used; a test that replaces the loader must not be the first.
assert callable(dlm.load)

# One thread per test process, and those it starts: the models are tiny, and the processes share the machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``covering`` as many cases as hold every value of every parameter, of one marked ``sampled(n)``
    an n-th; the others are slow."""
    seen: set[tuple[str, str, int]] = set()  # a value is the same object in all of its cases
    for item in sorted(items, key=lambda item: zlib.crc32(item.nodeid.encode())):  # no row or column is preferred
        if item.get_closest_marker("covering") and isinstance(item, pytest.Function):
            test = item.nodeid.partition("[")[0]
            held = {(test, name, id(value)) for name, value in item.callspec.params.items()}
            if held <= seen:
                item.add_marker("slow")
            seen |= held
        sampled = item.get_closest_marker("sampled")
        if sampled and zlib.crc32(item.nodeid.encode()) % sampled.args[0]:
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured of this machine during the tests is forgotten after them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser for the tests of pages."""
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
