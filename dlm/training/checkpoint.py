"""State of a training run on disk: one safetensors file, replaced as a whole, so that a kill loses nothing older."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dlm.errors import CheckpointError
from dlm.files import whole


def write_checkpoint(path: Path, state: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write tensors and the progress record; the file appears complete or stays as it was."""
    with whole(path) as partial:
        save_file({k: v.contiguous() for k, v in state.items()}, partial, metadata={"progress": json.dumps(progress)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_checkpoint` wrote.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
            return {key: file.get_tensor(key) for key in file.keys()}, progress  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a training checkpoint ({error}): remove it to start from the beginning"
        ) from error
