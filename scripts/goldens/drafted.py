"""The verdict on a drafted run (FreeDave): our forwards, told as the reference tells its calls.

The reference commits the state it has verified; the step that follows from it is the first draft of its next call. Ours
takes that step at once. So what our forward commits last is booked on the next forward of the same block, and on the
same one when the block is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

import dlm
import samplers
from dlm.engine.interfaces import ScoreModifier
from dlm.engine.step import StepView
from dlm.models.language_model import LanguageModel
from dlm.speculation import FreeDave
from scripts.goldens.cases import Case
from scripts.goldens.explain import Verdict
from scripts.goldens.plan import Plan


@dataclass(frozen=True)
class Forward:
    """One forward of a row.

    Attributes:
        committed: generated positions, in the order of the sampler's steps.
        block: the block it worked on.
    """

    committed: list[list[int]]
    block: tuple[int, int]


def judge(case: Case, model: LanguageModel, plan: Plan) -> Verdict:
    """Tokens, steps and calls against the record, if need be with equal float32 probabilities told apart."""
    apart = _apart(case, model, plan)
    if not apart:
        return Verdict("matched")
    sampler = plan.sampler
    precise = replace(sampler, proposer=replace(sampler.proposer, precision="float64"))
    for other in (precise, replace(sampler, modifiers=(*sampler.modifiers, HigherFirst()))):
        if not _apart(case, model, replace(plan, sampler=other)):
            return Verdict("explained", ("float32 tie",))
    if isinstance(sampler.selector, samplers.Threshold) and _subset(case, model, plan):
        return Verdict("explained", ("subset accepted",))
    return Verdict("unexplained", details=tuple(apart))


@dataclass(frozen=True)
class HigherFirst(ScoreModifier):
    """Of equal scores the higher position first; ours takes the lower one."""

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        assert view.scores is not None
        return view.scores.double() + 1e-12 * view.positions, state


def _subset(case: Case, model: LanguageModel, plan: Plan) -> bool:
    """Whether the record differs only in that it books a part of a forward's last, joint step on that very call."""
    forwards, tokens = _run(model, case.prompts[0], plan)
    if tokens != case.gen_ids[0] or len(forwards) != case.nfe:
        return False
    booked = _booked(forwards, plan.new_tokens)
    for place, (step, recorded) in enumerate(zip(booked, case.commit_step[0], strict=True)):
        last = forwards[step - 1].committed[-1] if step else []
        if step != recorded and not (recorded == step - 1 and place in last and len(last) > 1):
            return False
    return True


def _apart(case: Case, model: LanguageModel, plan: Plan) -> list[str]:
    """Where our run and the record differ."""
    (prompt,) = case.prompts
    forwards, tokens = _run(model, prompt, plan)
    steps = _booked(forwards, plan.new_tokens)
    apart = []
    if tokens != case.gen_ids[0]:
        apart.append("the tokens differ")
    apart += [
        f"generated position {place}: step {step}, recorded {recorded}"
        for place, (step, recorded) in enumerate(zip(steps, case.commit_step[0], strict=True))
        if step != recorded
    ]
    if len(forwards) != case.nfe:
        apart.append(f"{len(forwards)} forwards, recorded {case.nfe}")
    return apart


def _run(model: LanguageModel, prompt: list[int], plan: Plan) -> tuple[list[Forward], list[int]]:
    """Our forwards and the tokens they led to."""
    from dlm.api import Run, prompt_job  # the steps of a forward are not told apart any further out

    job = prompt_job(model, 0, prompt, plan.new_tokens, {})
    assert plan.draft_length is not None
    run = Run(model, [job], plan.sampler, plan.cache, FreeDave(plan.draft_length), 0, 1)
    forwards: list[Forward] = []
    for event in run:
        if isinstance(event, dlm.StepEvent):
            forwards.append(Forward(list(_steps(event, len(prompt))), _block(event, len(prompt))))
        else:
            return forwards, event.tokens
    raise AssertionError("a run ends with its rows")


def _steps(event: dlm.StepEvent, start: int) -> Iterator[list[int]]:
    """The generated positions each step of a forward committed. Steps stand side by side in the event."""
    positions, chosen = event.view.positions[0].tolist(), event.chosen[0].tolist()
    step: list[int] = []
    last = -1
    for position, committed in zip(positions, chosen, strict=True):
        if position <= last and step:  # positions ascend within a step
            yield step
            step = []
        last = position
        if committed:
            step.append(position - start)
    if step:
        yield step


def _block(event: dlm.StepEvent, start: int) -> tuple[int, int]:
    blocks = event.view.blocks
    return int(blocks.block_start[0]) - start, int(blocks.block_end[0]) - start


def _booked(forwards: list[Forward], new: int) -> list[int]:
    """The call on which the reference books each generated position."""
    steps = [-1] * new
    for call, forward in enumerate(forwards):
        goes_on = call + 1 < len(forwards) and forwards[call + 1].block == forward.block
        for order, positions in enumerate(forward.committed):
            last = order + 1 == len(forward.committed)
            for position in positions:
                steps[position] = call + 1 if last and goes_on else call
    return steps
