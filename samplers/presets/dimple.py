"""Confident decoding (Dimple, arXiv 2505.16990)."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.blocks.whole import Whole
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.dimple import Dimple


def dimple(threshold: float = 0.95, *, steps: int | None = None, eps: float = 1e-3, **options: Any) -> Sampler:
    """Commit everything surer than ``threshold``; where nothing is, as many as Dream's time grid of ``steps`` says.

    The whole canvas is one block. Confidence is that before temperature and truncation, the paper's choice.
    """
    shared = Options.parse("dimple", options)
    selector = Dimple(threshold, steps, eps)
    return shared.finish(Sampler("dimple", Probability(), selector, shared.blocks_or(Whole())))
