"""Backbones: one bidirectional transformer, the checkpoint families that use it, and how they are loaded."""

from dlm.models.quiet import quiet_imports

with quiet_imports():
    from dlm.models.backbone import Backbone, ModelDescription
    from dlm.models.dream import DreamConfig, DreamModel
    from dlm.models.language_model import LanguageModel
    from dlm.models.llada import LLaDAConfig, LLaDAModelLM
    from dlm.models.loading import load
    from dlm.models.random_model import random_model

# fmt: off
__all__ = [
    "Backbone", "DreamConfig", "DreamModel", "LLaDAConfig", "LLaDAModelLM", "LanguageModel", "ModelDescription", "load",
    "random_model",
]
