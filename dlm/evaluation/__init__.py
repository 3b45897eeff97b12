"""Evaluation: tasks asked by points and sweeps, every answer kept.

:func:`sweep` runs many configurations; :func:`score` asks a model that is loaded already.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm.evaluation.scoring import score
    from dlm.evaluation.sweeps import Swept, sweep

__all__ = ["Swept", "score", "sweep"]


def __getattr__(name: str) -> Any:  # readers of results need no torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'scoring' if name == 'score' else 'sweeps'}"), name)
