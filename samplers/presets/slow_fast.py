"""Slow-Fast sampling (arXiv 2506.10848)."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.blocks.whole import Whole
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.slow_fast import SlowFast


def slowfast(
    *, explore: int = 6, window: int = 2, deviation: float = 1.0, low: float = 0.3, high: float = 0.9, **options: Any
) -> Sampler:
    """Find out slowly how far the canvas can be filled, then fill it up to there quickly; see
    :class:`samplers.SlowFast`. The whole canvas is one block by default."""
    shared = Options.parse("slowfast", options)
    selector = SlowFast(explore, window, deviation, low, high)
    return shared.finish(Sampler("slowfast", Probability(), selector, shared.blocks_or(Whole())))
