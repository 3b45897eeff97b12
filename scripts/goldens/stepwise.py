"""The verdict on a record that shows the canvas after every call: ours must show the same canvases, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import dlm
from dlm.api import StreamStep
from dlm.engine.interfaces import ScoreModifier, Speculator
from dlm.engine.sampler_run import SamplerState
from dlm.engine.step import StepView
from dlm.engine.stepper import PlainStepper, StepInputs, StepTools
from dlm.models.language_model import LanguageModel
from scripts.goldens.cases import Case
from scripts.goldens.explain import Verdict
from scripts.goldens.plan import Plan
from scripts.goldens.rules import TIE

Canvases = list[list[int]]


def judge(case: Case, model: LanguageModel, plan: Plan) -> Verdict:
    """The verdict on a case of one row; what our decoder raises is the caller's."""
    theirs = case.canvases
    assert theirs is not None
    ours = run(case, model, plan)
    found = _explained(case, plan, ours, theirs)
    if found is not None:
        return found
    for fault in plan.faults:
        faulty = run(case, model, replace(plan, sampler=fault.sampler or plan.sampler, cache=fault.cache or plan.cache))
        if faulty == theirs or _into_the_prompt(case, ours, faulty, theirs):
            return Verdict("explained", fault.rules)
    leaning = Leaning(theirs, TIE[plan.sampler.proposer.precision])
    leant = replace(plan.sampler, modifiers=(*plan.sampler.modifiers, LeaningScore(leaning)))
    found = _explained(case, plan, run(case, model, replace(plan, sampler=leant), leaning), theirs)
    if found is not None:
        return Verdict("explained", ("score tie", *found.rules))
    return Verdict("unexplained", details=_differences(ours, theirs))


def run(case: Case, model: LanguageModel, plan: Plan, drafter: Any = None) -> Canvases:
    """Our canvases after every forward."""
    steps = dlm.stream(
        model,
        case.prompts,
        sampler=plan.sampler,
        cache=plan.cache,
        drafter=drafter,
        max_new_tokens=plan.new_tokens,
    )
    return [step.canvas for step in steps if isinstance(step, StreamStep)]


def _explained(case: Case, plan: Plan, ours: Canvases, theirs: Canvases) -> Verdict | None:
    """What makes the two the same; None: nothing found."""
    if ours == theirs:
        return Verdict("matched")
    start = [[case.mask_id] * len(theirs[0])]
    moved = [after for before, after in pairwise(start + theirs) if before != after]
    if ours == moved and len(moved) < len(theirs):
        return Verdict("explained", ("calls without a commit",))
    broken = _law_broken(case, plan, theirs)
    if broken is not None and ours[:broken] == theirs[:broken]:
        return Verdict("explained", ("law broken",))
    return None


def _law_broken(case: Case, plan: Plan, theirs: Canvases) -> int | None:
    """The first call at which the record breaks a law that ours keeps: a committed token becomes another one (or, where
    the sampler takes nothing back, a mask), a position behind the active block is filled, or masks are left."""
    mask, sampler = case.mask_id, plan.sampler
    before = [mask] * len(theirs[0])
    for call, after in enumerate(theirs):
        pairs = [(a, b) for a, b in zip(before, after, strict=True) if a not in (mask, b)]
        if pairs and (sampler.reviser is None or any(b != mask for _, b in pairs)) and not sampler.selector.rewrites:
            return call
        block = before.index(mask) // plan.block if mask in before else 0
        behind = (block + 1) * plan.block
        if before[behind:] != after[behind:]:
            return call
        before = after
    return len(theirs) if mask in theirs[-1] else None


def _into_the_prompt(case: Case, ours: Canvases, faulty: Canvases, theirs: Canvases) -> bool:
    """Whether the first call that differs is one with fewer masks than its schedule leaves, because the others stand in
    the prompt, and the fault gives just that call. What follows cannot be compared: the record does not show prompts."""
    call = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    fewer = theirs[call].count(case.mask_id) < ours[call].count(case.mask_id)
    return fewer and faulty[: call + 1] == theirs[: call + 1]


def _differences(ours: Canvases, theirs: Canvases) -> tuple[str, ...]:
    wrong = [] if len(ours) == len(theirs) else [f"{len(ours)} forwards, recorded {len(theirs)}"]
    for call, (own, recorded) in enumerate(zip(ours, theirs, strict=False)):
        places = [i for i, (a, b) in enumerate(zip(own, recorded, strict=True)) if a != b]
        if places:
            shown = [(i, own[i], recorded[i]) for i in places[:4]]
            wrong.append(f"call {call}: (position, ours, recorded) {shown}")
            break
    return tuple(wrong)


@dataclass(frozen=True)
class Leaning(Speculator):
    """Plain steps in which every number of the proposal is moved by ``tolerance`` towards what the record did next.

    Attributes:
        canvases: the recorded canvas after every call.
        tolerance: how far; see :data:`scripts.goldens.rules.TIE`.
    """

    canvases: Sequence[Sequence[int]]
    tolerance: float

    def stepper(self, tools: StepTools) -> PlainStepper:
        return _LeaningStepper(tools, self)


@dataclass(frozen=True)
class LeaningScore(ScoreModifier):
    """The same for the scores, which need not follow the probability (PC-Sampler caps them)."""

    rule: Leaning

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        assert view.scores is not None
        call = min(int(view.blocks.step[0]), len(self.rule.canvases) - 1)
        kept = torch.tensor(self.rule.canvases[call])
        place = (view.positions - view.canvas.start[:, None]).clamp(0, len(kept) - 1)
        sign = torch.where(kept[place] == view.canvas.mask_id, -1.0, 1.0).double()
        size = view.scores.double().abs().clamp(1.0, 1e6)
        return view.scores.double() + sign * size * self.rule.tolerance, state


class _LeaningStepper(PlainStepper):
    def __init__(self, tools: StepTools, rule: Leaning) -> None:
        super().__init__(tools)
        self.rule, self.mask_id = rule, tools.description.mask_id
        self.before: Tensor | float = 0.0

    def look(self, inputs: StepInputs, state: SamplerState) -> tuple[StepView, Any]:
        view, seen = super().look(inputs, state)
        canvas, call = view.canvas, min(int(view.blocks.step[0]), len(self.rule.canvases) - 1)
        kept = torch.tensor(self.rule.canvases[call]) != self.mask_id
        start, nudge = int(canvas.start[0]), torch.zeros_like(canvas.commit_confidence)
        nudge[0, start : start + len(kept)] = torch.where(kept, self.rule.tolerance, -self.rule.tolerance).double()
        # What a commit has remembered leans, too, by as much as now, not by as much as then.
        canvas.commit_confidence = canvas.commit_confidence - self.before + nudge
        self.before = nudge
        return replace(view, proposal=replace(view.proposal, **_moved(view, nudge.gather(1, view.positions)))), seen


def _moved(view: StepView, nudge: Tensor) -> dict[str, Tensor]:
    proposal, moved = view.proposal, {}
    for name, sign in (("prob", 1.0), ("margin", 1.0), ("entropy", -1.0)):
        value = getattr(proposal, name)
        if value is not None:
            moved[name] = value.double() + sign * nudge
    return moved
