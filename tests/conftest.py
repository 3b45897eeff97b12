"""Settings of the whole suite."""

from __future__ import annotations

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

# One thread per test process: the models are tiny, and the processes share the machine.
torch.set_num_threads(1)


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
