"""The verdict on a record that shows the canvas after every call: ours must show the same canvases, call by call."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import dlm
from dlm.api import StreamStep
from dlm.models.language_model import LanguageModel
from scripts.goldens.cases import Case
from scripts.goldens.explain import Verdict
from scripts.goldens.leaning import Leaning, LeaningScore
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
    length = len(theirs[0])
    begins = plan.sampler.blocks.starting_length(length) or length
    start = [case.mask_id] * begins + [case.settings.get("eos_token_id", case.mask_id)] * (length - begins)
    moved = [after for before, after in pairwise([start, *theirs]) if before != after]
    if ours == moved and len(moved) < len(theirs):
        return Verdict("explained", ("calls without a commit",))
    if "fills the tail" in plan.breaks and _tail_filled(case, ours, theirs):
        return Verdict("explained", ("tail filled",))
    broken = _law_broken(case, plan, moved)
    if broken is not None and ours[:broken] == moved[:broken]:
        return Verdict("explained", ("law broken",))
    return None


def _tail_filled(case: Case, ours: Canvases, theirs: Canvases) -> bool:
    """Whether all is equal up to the first end of text with something masked behind it, which the reference fills with
    that id at once, and ours goes on to decode."""
    before = [case.mask_id] * len(theirs[0])
    end = case.settings.get("eos_id", case.settings.get("eos_token_id"))
    for own, after in zip(ours, theirs, strict=False):
        behind = after.index(end) + 1 if end in after else len(after)
        if case.mask_id in before[behind:]:
            return own[:behind] == after[:behind]
        if own != after:
            return False
        before = after
    return False


def _law_broken(case: Case, plan: Plan, theirs: Canvases) -> int | None:
    """The first call that changed something, and breaks a rule that ours keeps and its code is known to break: a
    committed token becomes another one or, where the sampler takes nothing back, a mask (``rewrites``); fewer masks are
    in reach than the rule wants to commit at least, and it goes beyond them (``overshoots``); a row may grow by more
    than there is room for (``drops at the bound``); the run ends with masks."""
    mask, sampler = case.mask_id, plan.sampler
    before = [mask] * len(theirs[0])
    for call, after in enumerate(theirs):
        changed = [b for a, b in zip(before, after, strict=True) if a not in (mask, b)]
        if "rewrites" in plan.breaks and any(sampler.reviser is None or b != mask for b in changed):
            return call
        reach = (before.index(mask) // plan.block + 1) * plan.block if mask in before else 0
        scarce = before[:reach].count(mask) < getattr(sampler.selector, "minimum", 1)
        if "overshoots" in plan.breaks and scarce and (changed or before[reach:] != after[reach:]):
            return call
        if "drops at the bound" in plan.breaks and before != after and _drops(case, before):
            return call
        before = after
    return len(theirs) if "leaves masks" in plan.breaks and mask in theirs[-1] else None


def _drops(case: Case, before: list[int]) -> bool:
    """Whether a row that holds committed tokens has less room than one growth takes."""
    end, more = case.settings["eos_token_id"], case.settings["expansion_factor"] - 1
    room = len(before) - max((i + 1 for i, token in enumerate(before) if token != end), default=0)
    return 0 < room < more and any(token not in (end, case.mask_id) for token in before)


def _into_the_prompt(case: Case, ours: Canvases, faulty: Canvases, theirs: Canvases) -> bool:
    """Whether the first call that differs is one with fewer masks than its schedule leaves, because the others stand in
    the prompt, and the fault gives just that call. What follows cannot be compared: records do not show the prompt."""
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
