"""Evaluation: tasks asked by points and sweeps, every answer kept.

:func:`sweep` runs many configurations; :func:`score` asks a model that is loaded already; :func:`tune` finds the
cheapest setting at a stated quality.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm.evaluation.scoring import score
    from dlm.evaluation.sweeps import Swept, sweep
    from dlm.evaluation.tuning.tune import Tuned, tune

__all__ = ["Swept", "Tuned", "score", "sweep", "tune"]
_PLACES = {"score": "scoring", "Tuned": "tuning.tune", "tune": "tuning.tune"}


def __getattr__(name: str) -> Any:  # readers of results need no torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'sweeps')}"), name)
