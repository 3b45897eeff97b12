"""Fixed budgets (LLaDA, arXiv 2502.09992): so many tokens per forward, the surest first."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.budgets.uniform import Uniform
from samplers.presets.options import preset
from samplers.scores.confidence import Margin, NegativeEntropy, Probability, Random
from samplers.selectors.top_k import TopK


def uniform(tokens_per_step: int | None, steps: int | None) -> Uniform:
    """The budget two settings describe; one token per step when neither is given."""
    return Uniform(1 if tokens_per_step is None and steps is None else tokens_per_step, steps)


def topk(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """LLaDA's low-confidence remasking: the most probable proposals first.

    Give ``tokens_per_step`` (default 1) or ``steps`` for the whole canvas. ``options``: see
    :class:`samplers.Options`.
    """
    return preset("topk", options, Probability(), TopK(), budget=uniform(tokens_per_step, steps))


def margin(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget ranked by the gap between the two largest probabilities (arXiv 2502.06768)."""
    return preset("margin", options, Margin(), TopK(), budget=uniform(tokens_per_step, steps))


def entropy(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget ranked by negative entropy, the least uncertain position first."""
    return preset("entropy", options, NegativeEntropy(), TopK(), budget=uniform(tokens_per_step, steps))


def random(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget in random order (LLaDA's ``remasking="random"``); tokens are still the proposals."""
    return preset("random", options, Random(), TopK(), budget=uniform(tokens_per_step, steps))
