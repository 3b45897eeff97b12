"""Drafters under the name that configurations, scripts and results folders know; they live in dlm.speculation."""

from dlm.speculation.freedave import FreeDave

__all__ = ["FreeDave"]
