"""Drafters under the name that configurations, scripts and results folders know; they live in dlm.speculation."""

from dlm.speculation.freedave import FreeDave

freedave = FreeDave

PRESETS = ("freedave",)
__all__ = ["PRESETS", "FreeDave", "freedave"]
