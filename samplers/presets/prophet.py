"""Early commit (Prophet, arXiv 2508.19982; SchED, arXiv 2512.02892): stop as soon as the answer is certain."""

from __future__ import annotations

from typing import Literal, Unpack

from dlm.engine.interfaces import Selector
from dlm.engine.sampler import Sampler
from samplers.exits.answer_gap import AnswerGap, AnswerRegion, Smooth, Stages
from samplers.presets.budgeted import uniform
from samplers.presets.options import SharedOptions, preset, published
from samplers.scores.confidence import Probability
from samplers.selectors.top_k import TopK

# The published code looks at so many positions of an answer, whatever it is told.
ANSWER_LENGTH = 5


def _early(
    name: str, options: SharedOptions, leave: AnswerGap, selector: Selector | None, tokens_per_step: int | None
) -> Sampler:
    """A base sampler (a fixed budget unless ``selector`` is another) with an early exit."""
    chooser = selector or TopK()
    budget = uniform(tokens_per_step, leave.steps) if chooser.uses_budget else None
    return preset(name, options, Probability(), chooser, budget=budget, exit=leave)


@published
def prophet(
    *,
    answer_start: int | None = None,
    answer_after: str | None = None,
    answer_length: int | None = None,
    early: float = 7.5,
    mid: float = 5.0,
    late: float = 2.5,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    progress: Literal["steps", "filled"] = "steps",
    selector: Selector | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Commit all that is left once the mean gap of the two largest logits over the answer reaches ``early``, ``mid`` or
    ``late``, by progress; until then a fixed budget, or what ``selector`` chooses.

    The answer begins at generated position ``answer_start``, or behind the text ``answer_after`` ("The answer is"), and
    has 5 positions unless ``answer_length`` says otherwise; with neither it is the whole generated span. Tokens that
    the answer must contain are pinned with ``pinned=`` of :func:`dlm.generate`.
    """
    if answer_length is None and (answer_start is not None or answer_after is not None):
        answer_length = ANSWER_LENGTH
    region = AnswerRegion(answer_start, answer_after, answer_length)
    leave = AnswerGap(region, Stages(early, mid, late), steps, tokens_per_step or 1, progress)
    return _early("prophet", options, leave, selector, tokens_per_step)


@published
def sched(
    *,
    first: float = 7.5,
    last: float = 2.5,
    shape: Literal["linear", "cosine", "exponential"] = "cosine",
    decay: float = 4.0,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    progress: Literal["steps", "filled"] = "steps",
    selector: Selector | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """The same over the whole generated span, with a gap that falls smoothly from ``first`` to ``last`` (SchED; the
    numbers are ours, the paper's are UNVERIFIED)."""
    leave = AnswerGap(AnswerRegion(), Smooth(first, last, shape, decay), steps, tokens_per_step or 1, progress)
    return _early("sched", options, leave, selector, tokens_per_step)
