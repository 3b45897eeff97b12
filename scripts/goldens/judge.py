"""The verdict on a cached run: our run, and runs with a fault put in, against the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dlm
from dlm.api import Generation
from dlm.engine.no_cache import NoCache
from dlm.errors import DlmError
from dlm.models.language_model import LanguageModel
from scripts.goldens.cases import Case
from scripts.goldens.explain import Verdict
from scripts.goldens.leaning import Leaning, LeaningScore
from scripts.goldens.learned import told
from scripts.goldens.listen import Call, Listening
from scripts.goldens.plan import Fault, Plan
from scripts.goldens.rules import TIE


class CountError(DlmError):
    """A run's own counters are not what it was fed."""


@dataclass(frozen=True)
class Account:
    """A run as the record tells one: calls of a batch whose rows open every block together.

    Attributes:
        tokens, steps: per row and generated position, as in the record.
        fed: per call what each row that had work was fed; a row that waits is missing.
        waits: whether some row waited for another one.
    """

    tokens: list[list[int]]
    steps: list[list[int]]
    fed: list[dict[int, Call]]
    waits: bool


def account(runs: Sequence[Generation], heard: dict[int, list[Call]], fault: Fault) -> Account:
    """Our rows, which go on by themselves, in the order in which a batch in step goes through them."""
    rows = [_idle(heard[row], len(runs[row].prompt_tokens) + len(runs[row].tokens), fault) for row in range(len(runs))]
    blocks = [_by_block([call for call, _ in row]) for row in rows]
    count = max(map(len, blocks))
    fed: list[dict[int, Call]] = []
    places: list[list[int]] = [[] for _ in runs]
    for block in range(count):
        here = [row[block] if block < len(row) else [] for row in blocks]
        for row, calls in enumerate(here):
            places[row] += range(len(fed), len(fed) + len(calls))
        for step in range(max(map(len, here))):
            fed.append({row: calls[step] for row, calls in enumerate(here) if step < len(calls)})
    steps = []
    for row, run in enumerate(runs):
        own = [place for place, (_, idle) in zip(places[row], rows[row], strict=True) if not idle]
        steps.append([own[step] if step >= 0 else -1 for step in run.commit_step])
    return Account([run.tokens for run in runs], steps, fed, any(len(calls) < len(runs) for calls in fed))


def _idle(calls: list[Call], end: int, fault: Fault) -> list[tuple[Call, bool]]:
    """The calls of a row, and whether one is without work: those that the fault adds are."""
    out: list[tuple[Call, bool]] = []
    for blocks in _by_block(calls):
        out += [(call, False) for call in blocks]
        if fault.idle is not None and len(blocks) == 1:
            first = blocks[0].block[0]
            fed = frozenset(range(first, min(first + fault.idle, end)))
            out.append((replace(blocks[0], fed=fed, place=1), True))
    return out


def _by_block(calls: list[Call]) -> list[list[Call]]:
    """Calls of a row, those of one block together."""
    blocks: list[list[Call]] = []
    for call in calls:
        if call.place == 0:
            blocks.append([])
        blocks[-1].append(call)
    return blocks


def differences(case: Case, found: Account) -> list[str]:
    """Where an account and a record part; empty: they agree in everything."""
    wrong = []
    if len(found.fed) != case.nfe:
        wrong.append(f"{len(found.fed)} forwards, recorded {case.nfe}")
    for name, ours, theirs in (("step", found.steps, case.commit_step), ("token", found.tokens, case.gen_ids)):
        for row, (own, recorded) in enumerate(zip(ours, theirs, strict=True)):
            if len(own) != len(recorded):
                wrong.append(f"row {row}: {len(own)} {name}s, recorded {len(recorded)}")
            apart = [i for i, (a, b) in enumerate(zip(own, recorded, strict=False)) if a != b]
            wrong += [f"row {row}, generated position {i}: {name} {own[i]}, recorded {recorded[i]}" for i in apart[:3]]
    for call, (working, total) in enumerate(zip(found.fed, case.rows_per_call, strict=False)):
        if total not in (len(working), len(case.prompts)):
            wrong.append(f"call {call}: {len(working)} rows have work, recorded {total}")
    # Some records say only how many positions were fed.
    alone = case.method != "d2_d2cache" or len(case.prompts) == 1  # its records of batches show one row
    recorded = case.fed_per_call if case.fed_per_call is not None and alone else case.tokens_per_call
    if len(recorded) != case.nfe:
        wrong.append("the record does not say what every call was fed")
    for call, (working, fed) in enumerate(zip(found.fed, recorded, strict=False)):
        for row, one in working.items():
            said = _of_row(fed, row)
            if not _fed_alike(one, said):
                wrong.append(f"call {call}, row {row}: fed {_ranges(one.fed)}, recorded {said}")
    return wrong


def _of_row(fed: Any, row: int) -> Any:
    """What a row was fed: ranges for all rows, or a list of them for each."""
    each = isinstance(fed, list) and fed and isinstance(fed[0], list) and fed[0] and isinstance(fed[0][0], list)
    return fed[row] if each else fed


def _fed_alike(own: Call, recorded: object) -> bool:
    if isinstance(recorded, int):
        return len(own.fed) == recorded
    if isinstance(recorded, dict):
        fresh = {name.removeprefix("refresh_") for name, value in recorded.items() if value}
        return own.fresh == frozenset("prompt" if name == "prompt" else "answer" for name in fresh)
    assert isinstance(recorded, list)
    return own.fed == {position for first, end in recorded for position in range(first, end)}


def _ranges(positions: frozenset[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for position in sorted(positions):
        if ranges and ranges[-1][1] == position:
            ranges[-1][1] += 1
        else:
            ranges.append([position, position + 1])
    return ranges


def run(case: Case, model: LanguageModel, plan: Plan, fault: Fault) -> Account:
    """Decode with a fault put in, and account for it."""
    policy = fault.cache if fault.cache is not None else plan.cache
    listening = Listening(policy if policy is not None else NoCache())
    sampler = fault.sampler if fault.sampler is not None else plan.sampler
    runs = dlm.generate(
        model,
        case.prompts,
        sampler=sampler,
        cache=listening,
        max_new_tokens=plan.new_tokens,
        batch_size=len(case.prompts),
        pinned=plan.pinned,
        record="commits" if plan.shortens else None,
    )
    for row, one in enumerate(runs):
        calls = listening.heard[row]
        fed = sum(len(call.fed) for call in calls)
        if one.counts.forwards != len(calls) or (calls[0].fresh is None and one.counts.token_forwards != fed):
            raise CountError(f"row {row} counts {one.counts.token_forwards} positions, and was fed {fed}")
    if plan.shortens:
        runs = [told(one, model.description.eos_ids[0]) for one in runs]
    return account(runs, listening.heard, fault)


def _leaning(case: Case, plan: Plan) -> Fault:
    """Our own run with scores moved by their rounding error towards the record."""
    leaning = Leaning.towards(case, TIE[plan.sampler.proposer.precision])
    modifiers = (*plan.sampler.modifiers, LeaningScore(leaning))
    return Fault(("score tie",), replace(plan.sampler, modifiers=modifiers))


NONE = Fault(())


def judge(case: Case, model: LanguageModel, plan: Plan) -> Verdict:
    """The verdict on a cached case; what our cache raises is the caller's."""
    ours = run(case, model, plan, NONE)
    apart = differences(case, ours)
    if any(case.mask_id in tokens for tokens in ours.tokens):
        return Verdict("unexplained", details=("our run left masks",))
    if not apart:
        return Verdict("explained", ("rows wait",)) if ours.waits else Verdict("matched")
    for fault in plan.faults:
        found = run(case, model, plan, fault)
        apart = differences(case, found)
        if not apart:
            return Verdict("explained", (*fault.rules, *(["rows wait"] if found.waits else [])))
    alone = len(case.prompts) == 1 and not plan.sampler.order_known
    if alone and not differences(case, run(case, model, plan, _leaning(case, plan))):
        return Verdict("explained", ("score tie",))
    return Verdict("unexplained", details=tuple(apart))
