"""What ``dlm bench drafting`` reports of a decode with drafts beside the undrafted one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dlm.bench.draft_decode import Cell, Contender, DraftRun
from dlm.engine.canvas import Job
from dlm.engine.result import RowResult
from dlm.errors import SettingsError


@dataclass(frozen=True)
class DraftFigures:
    """One contender on one kind of prompts. Counts are means per answer over all rounds, seconds and ratios are medians
    over the rounds.

    Attributes:
        model, prompts, batch, answers, sampler, cache: what was measured; the answers of all rounds.
        drafts, layout, draft_length: the contender.
        forwards: model evaluations.
        saved: share of the undrafted run's forwards that were not needed.
        accepted: steps that needed no forward of their own, per forward.
        accepted_share: the same per draft that was evaluated; None where none was.
        token_forwards, token_ratio: positions pushed through the body, and how many times the undrafted run's.
        seconds: of a round's answers.
        ratio: seconds of the undrafted run / seconds, in the same round (above 1: drafting is faster); least and most
            over the rounds beside it.
        outside: share of the time outside the model.
        limit: seconds that arithmetic or weight reading alone would take, forward by forward, in a round.
        peak: bytes, see :func:`dlm.bench.draft_decode.fitting`.
        answers_differ, positions_differ: answers that are not the undrafted run's, and positions of all answers.
    """

    model: str
    prompts: str
    batch: int
    answers: int
    sampler: str
    cache: str
    drafts: str
    layout: str | None
    draft_length: int | str | None
    forwards: float
    saved: float
    accepted: float
    accepted_share: float | None
    token_forwards: float
    token_ratio: float
    seconds: float
    ratio: float
    ratio_least: float
    ratio_most: float
    outside: float
    limit: float
    peak: int
    answers_differ: int
    positions_differ: int


@dataclass(frozen=True)
class FlipFigures:
    """How often drafting changed an answer in one number format: a tie that rounding decides the other way.

    Attributes:
        model, prompts, dtype, sampler, cache, drafts: what was decoded.
        answers, answers_differ: how many, and how many of them are not the undrafted run's.
        positions, positions_differ: the same of their positions.
        more_forwards: answers that took more forwards than undrafted.
    """

    model: str
    prompts: str
    dtype: str
    sampler: str
    cache: str
    drafts: str
    answers: int
    answers_differ: int
    positions: int
    positions_differ: int
    more_forwards: int


class Differing(NamedTuple):
    """Answers and positions that are not those of another run."""

    answers: int
    positions: int


def differing(own: Mapping[int, RowResult], other: Mapping[int, RowResult]) -> Differing:
    """How far two runs of the same prompts are apart."""
    per_answer = [
        sum(a != b for a, b in zip(own[index].tokens, other[index].tokens, strict=True)) for index in sorted(other)
    ]
    return Differing(sum(number > 0 for number in per_answer), sum(per_answer))


def figures_of(
    cell: Cell,
    contender: Contender,
    prompts: tuple[str, Sequence[Sequence[Job]]],
    rounds: Sequence[Mapping[str, DraftRun]],
    peak: int,
) -> DraftFigures:
    """Figures of a contender; the first of every round is the undrafted run.

    Args:
        cell, contender: what decoded.
        prompts: what they are called, and the jobs of every round.
        rounds: per round the run of every contender, by label.
        peak: memory in bytes.
    """
    own = [runs[contender.label] for runs in rounds]
    base = [next(iter(runs.values())) for runs in rounds]
    counts = [result.counts for run in own for result in run.results.values()]
    plain = [result.counts for run in base for result in run.results.values()]
    forwards, accepted, fed = (
        sum(getattr(count, name) for count in counts) for name in ("forwards", "accepted_drafts", "token_forwards")
    )
    ratios = [other.decode.seconds / run.decode.seconds for run, other in zip(own, base, strict=True)]
    verified = sum(run.verified for run in own)
    steps = [step for run in own for step in run.decode.steps]
    outside, inside = sum(step.sampler for step in steps), sum(step.inside for step in steps)
    differ = [differing(run.results, other.results) for run, other in zip(own, base, strict=True)]
    row = max(job.end for jobs in prompts[1] for job in jobs)
    return DraftFigures(
        model=cell.name,
        prompts=prompts[0],
        batch=cell.batch,
        answers=len(counts),
        sampler=cell.sampler_name,
        cache=cell.cache_name,
        drafts=contender.label,
        layout=contender.layout,
        draft_length=contender.draft_length,
        forwards=forwards / len(counts),
        saved=1 - forwards / sum(count.forwards for count in plain),
        accepted=accepted / forwards,
        accepted_share=accepted / verified if verified else None,
        token_forwards=fed / len(counts),
        token_ratio=fed / sum(count.token_forwards for count in plain),
        seconds=statistics.median(run.decode.seconds for run in own),
        ratio=statistics.median(ratios),
        ratio_least=min(ratios),
        ratio_most=max(ratios),
        outside=outside / (outside + inside),
        limit=statistics.median(run.limit(cell, row) for run in own),
        peak=peak,
        answers_differ=sum(d.answers for d in differ),
        positions_differ=sum(d.positions for d in differ),
    )


def flips_of(
    cell: Cell, contenders: Sequence[Contender], labels: tuple[str, str], jobs: Sequence[Job]
) -> list[FlipFigures]:
    """Decode once with every drafter and once without, and compare; what is refused is left out.

    Args:
        cell, contenders: what decodes; the first contender drafts nothing.
        labels: of the prompts, and of the number format.
        jobs: the prompts.
    """
    base, figures = _answers(cell, contenders[0], jobs), []
    positions = sum(len(result.tokens) for result in base.values())
    for contender in contenders:
        if contender.drafter is None:
            continue
        try:
            own = _answers(cell, contender, jobs)
        except SettingsError:  # the timed part has said so
            continue
        differ = differing(own, base)
        more = sum(own[index].counts.forwards > base[index].counts.forwards for index in base)
        figures.append(
            FlipFigures(
                cell.name, *labels, cell.sampler_name, cell.cache_name, contender.label,
                len(base), differ.answers, positions, differ.positions, more,
            )
        )  # fmt: skip
    return figures


def _answers(cell: Cell, contender: Contender, jobs: Sequence[Job]) -> dict[int, RowResult]:
    run = DraftRun.of(cell, contender, jobs)
    run.decode.advance(None)
    return run.results
