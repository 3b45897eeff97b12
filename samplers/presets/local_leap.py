"""LocalLeap (arXiv 2510.07081): a relaxed threshold around anchors."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.local_leap import LocalLeap

RELAXED = 0.75  # the paper's


def localleap(threshold: float = 0.9, relaxed: float | None = None, radius: int = 4, **options: Any) -> Sampler:
    """Commit what reaches ``threshold`` (the anchors), and within ``radius`` positions of an anchor what reaches
    ``relaxed``; None: 0.75, or the threshold where that is lower."""
    shared = Options.parse("localleap", options)
    near = min(RELAXED, threshold) if relaxed is None else relaxed
    selector = LocalLeap(threshold, near, radius)
    return shared.finish(Sampler("localleap", Probability(), selector, shared.block_schedule))
