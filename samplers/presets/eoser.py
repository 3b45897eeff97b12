"""End-of-sequence early rejection and ascending step size (EOSER and ASS, arXiv 2509.23924)."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.interfaces import BlockSchedule
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.ascending import AscendingBlocks
from samplers.blocks.whole import Whole
from samplers.budgets.ascending import Ascending
from samplers.modifiers.end_rejection import EndRejection
from samplers.presets.llada import uniform
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.top_k import TopK


def eoser(
    *,
    low: float = 0.4,
    high: float = 1.0,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    compat: Literal["clean", "reference"] = "clean",
    **options: Any,
) -> Sampler:
    """A fixed budget in which a proposed end of text is distrusted early: its confidence is multiplied with a factor
    that rises from ``low`` to ``high`` over the steps."""
    shared = Options.parse("eoser", options)
    budget = uniform(tokens_per_step, steps)
    modifier = EndRejection(low, high, steps, "linear", compat, tokens_per_step or 1)
    blocks = shared.blocks_or(Whole())
    return shared.finish(Sampler("eoser", Probability(), TopK(), blocks, budget, modifiers=(modifier,)))


def _blocks(name: str, count: int, options: Options) -> BlockSchedule:
    own = AscendingBlocks(count) if count > 1 else Whole()
    blocks = options.blocks_or(own)
    if not isinstance(blocks, Whole | AscendingBlocks):
        raise SettingsError(
            f"sampler {name!r} doubles its steps over the whole canvas: use blocks=whole or blocks=auto"
        )
    return blocks


def ass(*, block_count: int = 1, **options: Any) -> Sampler:
    """1, 2, 4, … positions a step: log2 of the canvas forwards in all. ``block_count`` cuts the canvas where steps end,
    the small steps first (see :class:`samplers.AscendingBlocks`)."""
    shared = Options.parse("ass", options)
    return shared.finish(Sampler("ass", Probability(), TopK(), _blocks("ass", block_count, shared), Ascending()))


def eoser_ass(*, low: float = 0.01, high: float = 1.0, block_count: int = 1, **options: Any) -> Sampler:
    """Both: doubling steps, with the end of text distrusted until the last one."""
    shared = Options.parse("eoser_ass", options)
    modifier = EndRejection(low, high, None, "ascending")
    blocks = _blocks("eoser_ass", block_count, shared)
    return shared.finish(Sampler("eoser_ass", Probability(), TopK(), blocks, Ascending(), modifiers=(modifier,)))
