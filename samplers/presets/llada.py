"""Fixed budgets (LLaDA, arXiv 2502.09992): so many tokens per forward, the surest first."""

from __future__ import annotations

from typing import Any

from dlm.engine.interfaces import Score
from dlm.engine.sampler import Sampler
from samplers.budgets.uniform import Uniform
from samplers.presets.options import Options
from samplers.scores.margin import Margin
from samplers.scores.negative_entropy import NegativeEntropy
from samplers.scores.probability import Probability
from samplers.scores.random import Random
from samplers.selectors.top_k import TopK


def _fixed_budget(name: str, score: Score, budget: dict[str, int | None], options: dict[str, Any]) -> Sampler:
    shared = Options.parse(name, options)
    return shared.finish(Sampler(name, score, TopK(), shared.block_schedule, uniform(**budget)))


def uniform(tokens_per_step: int | None, steps: int | None) -> Uniform:
    """The budget two settings describe; one token per step when neither is given."""
    return Uniform(1 if tokens_per_step is None and steps is None else tokens_per_step, steps)


def topk(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """LLaDA's low-confidence remasking: the most probable proposals first.

    Give ``tokens_per_step`` (default 1) or ``steps`` for the whole canvas. ``options``: see
    :class:`samplers.Options`.
    """
    return _fixed_budget("topk", Probability(), {"tokens_per_step": tokens_per_step, "steps": steps}, options)


def margin(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget ranked by the gap between the two largest probabilities (arXiv 2502.06768)."""
    return _fixed_budget("margin", Margin(), {"tokens_per_step": tokens_per_step, "steps": steps}, options)


def entropy(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget ranked by negative entropy, the least uncertain position first."""
    return _fixed_budget("entropy", NegativeEntropy(), {"tokens_per_step": tokens_per_step, "steps": steps}, options)


def random(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget in random order (LLaDA's ``remasking="random"``); tokens are still the proposals."""
    return _fixed_budget("random", Random(), {"tokens_per_step": tokens_per_step, "steps": steps}, options)
