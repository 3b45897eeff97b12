"""Saber (arXiv 2510.18165): adaptive acceleration with backtracking, made for code."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.blocks.whole import Whole
from samplers.presets.options import Options
from samplers.revisers.falling_confidence import FallingConfidence
from samplers.scores.probability import Probability
from samplers.selectors.mean_threshold import MeanThreshold


def saber(minimum: int = 2, **options: Any) -> Sampler:
    """Commit what is surer than the average token so far, at least ``minimum``; take back those that gained least. The
    whole canvas is one block by default."""
    shared = Options.parse("saber", options)
    selector, reviser = MeanThreshold(minimum), FallingConfidence(minimum)
    return shared.finish(Sampler("saber", Probability(), selector, shared.blocks_or(Whole()), reviser=reviser))
