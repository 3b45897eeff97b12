"""Drafters (several steps of a deterministic decode from one forward) and probes (what-if versions of a row)."""

from dlm.speculation.freedave import FreeDave

__all__ = ["FreeDave"]
