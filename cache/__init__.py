"""Caches: which positions are recomputed at a step. Today there is one policy, to recompute them all."""

from cache.none import none

PRESETS = ("none",)

__all__ = ["PRESETS", "none"]
