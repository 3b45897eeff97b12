"""What a forward of several versions of every row costs, whatever becomes of the versions: the knee, and from it how
many drafts must hold for drafting to pay."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dlm.bench.decode import Workload, random_jobs
from dlm.bench.draft_decode import Cell, Contender, DraftRun
from dlm.bench.limits import forward_cost

# Forwards per decode that count: those after the one that opens the block and has no drafts yet.
FORWARDS = 3


@dataclass(frozen=True)
class ForwardFigures:
    """One forward of so many versions of every row, medians; a ratio is taken within a round.

    Attributes:
        model, batch, prompt, block, cache, layout: what was measured; the block is the last of its row.
        versions: states per row and forward, the present one included.
        fed: positions of the whole batch that the forward pushes through the body.
        forward: seconds inside the model, body and head.
        forward_ratio: forward / that of one version, undrafted.
        step: seconds of the whole step, sampling and drafting included.
        step_ratio: step / that of one version, undrafted.
        limit: seconds that arithmetic or weight reading alone would take for that forward.
        break_even: share of the drafts that must be accepted for drafting to cost no more than not drafting; above 1 it
            cannot pay. None for one version.
    """

    model: str
    batch: int
    prompt: int
    block: int
    cache: str
    layout: str
    versions: int
    fed: float
    forward: float
    forward_ratio: float
    step: float
    step_ratio: float
    limit: float
    break_even: float | None


class _Took(NamedTuple):
    """Medians of one decode: seconds in the model, of the whole step; positions fed and scored."""

    forward: float
    step: float
    fed: float
    scored: float


def measure_knee(cell: Cell, contenders: Sequence[Contender], work: Workload, rounds: int) -> list[ForwardFigures]:
    """Time the first forwards of a fresh block for every number of versions, round after round in another order.

    Args:
        cell: what decodes; the sampler should commit one position per step.
        contenders: the first drafts nothing, the others as many versions as their draft length says.
        work: prompts of random tokens and one block.
        rounds: how often; one more warms up.
    """
    base, *_ = contenders
    took: dict[str, list[_Took | None]] = {contender.label: [] for contender in contenders}
    for number in range(rounds + 1):
        jobs = random_jobs(cell.model, work, seed=number)
        turns = list(contenders)
        random.Random(number).shuffle(turns)
        for contender in turns:
            run = DraftRun.begun(cell, contender, jobs, 1 + FORWARDS)
            if number:
                took[contender.label].append(_took(run, _versions(contender)))
    figures = []
    for contender in contenders:
        pairs = [(a, b) for a, b in zip(took[contender.label], took[base.label], strict=True) if a and b]
        if pairs:  # a block too short for so many versions has none
            figures.append(_figures(cell, contender, work, pairs))
    return figures


def _versions(contender: Contender) -> int:
    return 1 if contender.drafter is None else int(contender.draft_length or 1)


def _took(run: DraftRun, versions: int) -> _Took | None:
    """Medians of the forwards that had so many versions of every row; None: there was none."""
    steps = list(zip(run.decode.steps, run.versions, run.scored, strict=True))[1:]
    full = [(step, scored) for step, number, scored in steps if number == versions]
    if not full:
        return None
    return _Took(
        statistics.median(step.inside for step, _ in full),
        statistics.median(step.inside + step.sampler for step, _ in full),
        statistics.mean(step.fed for step, _ in full),
        statistics.mean(scored for _, scored in full),
    )


def _figures(cell: Cell, contender: Contender, work: Workload, pairs: Sequence[tuple[_Took, _Took]]) -> ForwardFigures:
    versions = _versions(contender)
    step_ratio = statistics.median(own.step / base.step for own, base in pairs)
    fed, scored = (statistics.mean(getattr(own, name) for own, _ in pairs) for name in ("fed", "scored"))
    cost = forward_cost(cell.model, round(fed), work.prompt + work.new, round(scored))
    return ForwardFigures(
        model=cell.name,
        batch=cell.batch,
        prompt=work.prompt,
        block=work.new,
        cache=cell.cache_name,
        layout=contender.layout or "",
        versions=versions,
        fed=fed,
        forward=statistics.median(own.forward for own, _ in pairs),
        forward_ratio=statistics.median(own.forward / base.forward for own, base in pairs),
        step=statistics.median(own.step for own, _ in pairs),
        step_ratio=step_ratio,
        limit=cell.limits.seconds(*cost),
        break_even=None if versions == 1 else max(0.0, (step_ratio - 1) / (versions - 1)),
    )
