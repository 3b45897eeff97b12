"""Divide and conquer (Hierarchy-dLLM, openreview ZsIQUjQtdW; dInfer)."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.presets.options import Options
from samplers.revisers.remask_doubtful import RemaskDoubtful
from samplers.scores.probability import Probability
from samplers.selectors.hierarchy import Hierarchy, HierarchyRemask


def hierarchy(low: float = 0.3, high: float | None = 0.9, *, first: bool = False, **options: Any) -> Sampler:
    """Commit the best position of every run of masks (above ``low``) and everything above ``high``."""
    shared = Options.parse("hierarchy", options)
    return shared.finish(Sampler("hierarchy", Probability(), Hierarchy(low, high, first), shared.block_schedule))


def hierarchy_remask(low: float = 0.4, high: float | None = 0.9, *, doubt: float = 0.4, **options: Any) -> Sampler:
    """The same; committed tokens whose position has become doubtful are written anew or masked again."""
    shared = Options.parse("hierarchy_remask", options)
    selector, reviser = HierarchyRemask(low, high, doubt), RemaskDoubtful(doubt)
    return shared.finish(Sampler("hierarchy_remask", Probability(), selector, shared.block_schedule, reviser=reviser))
