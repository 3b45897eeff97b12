"""Fixed budgets that correct themselves: ReMDM (arXiv 2503.00307, on LLaDA) and RCR (MDPO, details UNVERIFIED)."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.budgets.remdm import RemaskingLoop
from samplers.budgets.uniform import Uniform
from samplers.presets.llada import uniform
from samplers.presets.options import Options
from samplers.revisers.remask_lowest import RemaskLowest
from samplers.revisers.remask_overtaken import RemaskOvertaken
from samplers.scores.probability import Probability
from samplers.selectors.running_confidence import RunningConfidence
from samplers.selectors.top_k import TopK


def remdm(
    *, tokens_per_step: int = 1, cycles: int | None = None, number: int = 1, start: float = 0.875, **options: Any
) -> Sampler:
    """A fixed budget with ``cycles`` extra forwards when ``start`` of a block is filled, each refilling the ``number``
    tokens that were committed with the lowest confidence. For quality: slower than its base."""
    shared = Options.parse("remdm", options)
    loop = RemaskingLoop(tokens_per_step, cycles, number, start)
    return shared.finish(
        Sampler("remdm", Probability(), TopK(), shared.block_schedule, loop, reviser=RemaskLowest(loop))
    )


def rcr(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget in which positions keep competing: a committed token is taken back when enough others have been
    more confident at some time."""
    shared = Options.parse("rcr", options)
    budget: Uniform = uniform(tokens_per_step, steps)
    return shared.finish(
        Sampler("rcr", Probability(), RunningConfidence(), shared.block_schedule, budget, reviser=RemaskOvertaken())
    )
