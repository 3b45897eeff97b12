"""PC-Sampler (arXiv 2508.13021): position-aware, calibrated confidence."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.blocks.whole import Whole
from samplers.presets.llada import uniform
from samplers.presets.options import Options
from samplers.scores.calibrated import Calibrated
from samplers.selectors.top_k import TopK


def pc(
    *,
    decay: float = 0.25,
    cap: float = 10.0,
    frequencies: str | None = None,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    **options: Any,
) -> Sampler:
    """A fixed budget that prefers early positions and tokens that are rare in a corpus; a sampler for quality. The
    whole canvas is one block by default. The paper's ``decay``: 0.25, Sudoku 0, Countdown 1. See
    :class:`samplers.Calibrated`."""
    shared = Options.parse("pc", options)
    score, budget = Calibrated(decay, cap, frequencies), uniform(tokens_per_step, steps)
    return shared.finish(Sampler("pc", score, TopK(), shared.blocks_or(Whole()), budget))
