"""Early commit (Prophet, arXiv 2508.19982; SchED, arXiv 2512.02892): stop as soon as the answer is certain."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.interfaces import Selector
from dlm.engine.sampler import Sampler
from samplers.exits.answer_gap import AnswerGap, AnswerRegion, Smooth, Stages
from samplers.presets.budgeted import uniform
from samplers.presets.options import preset
from samplers.scores.confidence import Probability
from samplers.selectors.top_k import TopK

# The published code looks at so many positions of an answer, whatever it is told.
ANSWER_LENGTH = 5


def _early(
    name: str, thresholds: Stages | Smooth, region: AnswerRegion, base: dict[str, Any], options: dict[str, Any]
) -> Sampler:
    """A base sampler (a fixed budget unless ``selector`` is another) with an early exit."""
    selector, tokens, steps = base["selector"] or TopK(), base["tokens_per_step"], base["steps"]
    budget = uniform(tokens, steps) if selector.uses_budget else None
    leave = AnswerGap(region, thresholds, steps, tokens or 1, base["progress"])
    return preset(name, options, Probability(), selector, budget=budget, exit=leave)


def _region(start: int | None, after: str | None, length: int | None) -> AnswerRegion:
    given = start is not None or after is not None
    return AnswerRegion(start, after, length if length is not None or not given else ANSWER_LENGTH)


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
    **options: Any,
) -> Sampler:
    """Commit all that is left once the mean gap of the two largest logits over the answer reaches ``early``, ``mid`` or
    ``late``, by progress; until then a fixed budget, or what ``selector`` chooses.

    The answer begins at generated position ``answer_start``, or behind the text ``answer_after`` ("The answer is"), and
    has 5 positions unless ``answer_length`` says otherwise; with neither it is the whole generated span. Tokens that
    the answer must contain are pinned with ``pinned=`` of :func:`dlm.generate`.
    """
    region = _region(answer_start, answer_after, answer_length)
    base = {"selector": selector, "tokens_per_step": tokens_per_step, "steps": steps, "progress": progress}
    return _early("prophet", Stages(early, mid, late), region, base, options)


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
    **options: Any,
) -> Sampler:
    """The same over the whole generated span, with a gap that falls smoothly from ``first`` to ``last`` (SchED; the
    numbers are ours, the paper's are UNVERIFIED)."""
    base = {"selector": selector, "tokens_per_step": tokens_per_step, "steps": steps, "progress": progress}
    return _early("sched", Smooth(first, last, shape, decay), AnswerRegion(), base, options)
