"""Certainty prior (d2Cache, arXiv 2509.23094)."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.modifiers.certainty_prior import CertaintyPrior
from samplers.presets.llada import uniform
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.top_k import TopK


def certainty_prior(
    sigma: float = 10.0, *, tokens_per_step: int | None = None, steps: int | None = None, **options: Any
) -> Sampler:
    """A fixed budget by confidence times the share of known positions around, seen through a Gaussian of ``sigma``
    positions."""
    shared = Options.parse("certainty_prior", options)
    budget, modifier = uniform(tokens_per_step, steps), CertaintyPrior(sigma)
    return shared.finish(
        Sampler("certainty_prior", Probability(), TopK(), shared.block_schedule, budget, modifiers=(modifier,))
    )
