"""Finished points told to an experiment tracker, through accelerate: ``dlm eval tracker=wandb``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlm.configuration import check_choice
from dlm.errors import SettingsError
from dlm.evaluation.point import Point

PROJECT = "dlm"
_MODULE = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio", "tensorboard": "tensorboard"}


def check_tracker(name: Any) -> str | None:
    """A tracker's name, or None. Raises SettingsError: an unknown one, or one that is not installed."""
    if name is None:
        return None
    check_choice("tracker", name, tuple(_MODULE))
    if find_spec(_MODULE[name]) is None:
        raise SettingsError(f"tracker={name} is not installed: pip install {_MODULE[name]}, or leave tracker out")
    return str(name)


def track(name: str, point: Point, folder: Path, figures: Mapping[str, Any]) -> str | None:
    """Tell a tracker the settings and figures of a point, as a run of its own; returns what went wrong, if anything:
    what is kept on the disk does not depend on a tracker."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    label = f"{point.task} {point.method} {point.hash}"
    how: dict[str, dict[str, Any]] = {
        "wandb": {"run_name": PROJECT, "name": label},
        "trackio": {"run_name": PROJECT, "name": label},
        "mlflow": {"experiment_name": PROJECT, "run_name": label},
        "tensorboard": {"run_name": "tensorboard", "logging_dir": str(folder)},
    }
    PartialState()  # which process tells is asked of it
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    try:
        with redirect_stdout(sys.stderr):  # trackers talk
            tracker: Any = LOGGER_TYPE_TO_CLASS[name](**how[name])
            if hasattr(tracker, "start"):
                tracker.start()
            tracker.store_init_configuration(dict(_flat(point.config)))
            tracker.log(numbers, step=0)
            tracker.finish()
    except Exception as error:  # whatever a service that is not ours raises
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"tracker={name} was not told of {label}: {said}"
    return None


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Settings as ``sampler.threshold``: numbers, switches and texts."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{above}{key}.")
        else:
            plain = isinstance(value, str | int | float)
            found.append((f"{above}{key}", value if plain else json.dumps(value)))
    return found
