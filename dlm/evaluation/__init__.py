"""Evaluation: tasks asked by points and sweeps, every answer kept.

:func:`sweep` runs many configurations; :func:`evaluate` asks a model that is loaded already; :func:`tune` finds the
cheapest setting at a stated quality.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm.evaluation.scoring import Evaluation, evaluate, score
    from dlm.evaluation.sweeps import Swept, sweep
    from dlm.evaluation.tuning.tune import Tuned, tune

__all__ = ["Evaluation", "Swept", "Tuned", "evaluate", "score", "sweep", "tune"]
_PLACES = {
    **dict.fromkeys(("Evaluation", "evaluate", "score"), "scoring"),
    **dict.fromkeys(("Tuned", "tune"), "tuning.tune"),
}


def __getattr__(name: str) -> Any:  # readers of results need no torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'sweeps')}"), name)
