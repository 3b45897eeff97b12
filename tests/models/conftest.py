"""Checkpoints on disk, made once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.checkpoints import SEEDS, write_checkpoint


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of every golden checkpoint. Read only: a test that damages one copies it first."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: write_checkpoint(name, root / name) for name in SEEDS}
