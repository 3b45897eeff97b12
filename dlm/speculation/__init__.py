"""Drafters: several steps of a deterministic decode from one forward, without changing what is decoded."""

from dlm.speculation.freedave import FreeDave

__all__ = ["FreeDave"]
