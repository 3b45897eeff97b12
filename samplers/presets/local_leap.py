"""LocalLeap (arXiv 2510.07081): a relaxed threshold around anchors."""

from __future__ import annotations

from typing import Any

from dlm.sampler import Sampler
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.local_leap import LocalLeap


def localleap(anchor: float = 0.9, relaxed: float = 0.75, radius: int = 4, **options: Any) -> Sampler:
    """Commit what reaches ``anchor``, and within ``radius`` positions of it what reaches ``relaxed``."""
    shared = Options.parse("localleap", options)
    selector = LocalLeap(anchor, relaxed, radius)
    return shared.finish(Sampler("localleap", Probability(), selector, shared.block_schedule))
