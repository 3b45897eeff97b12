"""Backbones: one bidirectional transformer, the checkpoint families that use it, and how they are loaded.

Names are imported when they are first used: a sampler needs none of transformers, which takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm.models.backbone import Backbone, ModelDescription
    from dlm.models.dream import DreamConfig, DreamModel
    from dlm.models.language_model import LanguageModel
    from dlm.models.llada import LLaDAConfig, LLaDAModelLM
    from dlm.models.loading import load
    from dlm.models.untrained import random_model

_HOME = {
    "Backbone": "backbone",
    "DreamConfig": "dream",
    "DreamModel": "dream",
    "LLaDAConfig": "llada",
    "LLaDAModelLM": "llada",
    "LanguageModel": "language_model",
    "ModelDescription": "backbone",
    "load": "loading",
    "random_model": "untrained",
}

# fmt: off
__all__ = [
    "Backbone", "DreamConfig", "DreamModel", "LLaDAConfig", "LLaDAModelLM", "LanguageModel", "ModelDescription", "load",
    "random_model",
]
# fmt: on


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dlm.models' has no attribute {name!r}")
    value = getattr(import_module(f"dlm.models.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
