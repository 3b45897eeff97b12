"""How often drafting changes an answer: a tie that rounding decides the other way, counted in each number format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table

from dlm.bench.engine import Cell, Contender, Decode, tried
from dlm.bench.tables import Column, brief, table
from dlm.engine.canvas import Job
from dlm.engine.result import RowResult


@dataclass(frozen=True)
class FlipFigures:
    """How often drafting changed an answer in one number format."""

    model: str
    prompts: str
    dtype: str
    sampler: str
    cache: str
    drafts: str
    answers: int
    answers_differ: int  # answers that are not the undrafted run's
    positions: int
    positions_differ: int
    more_forwards: int  # answers that took more forwards than undrafted


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


def flips_of(
    cell: Cell, names: tuple[str, str, str, str], contenders: Sequence[Contender], jobs: Sequence[Job]
) -> list[FlipFigures]:
    """Decode once with every drafter and once without, and compare. What is refused is left out: the timed part has
    said so.

    Args:
        cell: the model; all prompts are one batch.
        names: of the prompts, the number format, the sampler and the cache.
        contenders: what decodes; the baseline drafts nothing.
        jobs: the prompts.
    """
    asked = [contender for contender in contenders if contender.drafter or not contender.baseline]
    runs, _ = tried(asked, lambda contender: Decode.of(cell, contender, jobs).advance().results)
    base, *_ = runs.values()
    positions = sum(len(result.tokens) for result in base.values())
    figures = []
    for contender in asked:
        if contender.drafter is None or contender.label not in runs:
            continue
        own = runs[contender.label]
        answers_differ, positions_differ = differing(own, base)
        more = sum(own[index].counts.forwards > base[index].counts.forwards for index in base)
        figures.append(
            FlipFigures(
                cell.name, *names, contender.label, len(base), answers_differ, positions, positions_differ, more
            )
        )
    return figures


def flips_table(figures: Sequence[FlipFigures]) -> Table:
    """Answers that differ from the undrafted ones, all prompts together, a column per number format."""
    lines: dict[tuple[str, str, str], list[FlipFigures]] = {}
    for f in figures:
        lines.setdefault((f.sampler, f.cache, f.drafts), []).append(f)
    first, *_ = lines.values()
    answers = sum(f.answers for f in first if f.dtype == first[0].dtype)

    def at(dtype: str) -> Column:
        def cell(line: Sequence[FlipFigures]) -> str:
            here = [f for f in line if f.dtype == dtype]
            return counted(sum(f.answers_differ for f in here), sum(f.positions_differ for f in here))

        return Column(dtype, cell)

    names = (
        Column("sampler, cache", lambda line: f"{brief(line[0].sampler)}, {brief(line[0].cache)}", words=True),
        Column("drafts", lambda line: line[0].drafts, words=True),
    )
    return table(
        f"{first[0].model}: answers that differ from the undrafted ones, of {answers}, in each number format",
        "in brackets: positions that differ",
        [*names, *map(at, dict.fromkeys(f.dtype for f in figures))],
        lines.values(),
        grouped=True,
    )


def counted(answers: int, positions: int) -> str:
    """Answers that differ, with their positions in brackets."""
    return f"{answers} ({positions})" if answers else "0"


def flip_lines(flips: Sequence[FlipFigures]) -> Iterator[str]:
    """Per number format how many differ: in float64 it must be none."""
    for dtype in dict.fromkeys(f.dtype for f in flips):
        here = [f for f in flips if f.dtype == dtype]
        differ, answers = sum(f.answers_differ for f in here), sum(f.answers for f in here)
        positions, every = sum(f.positions_differ for f in here), sum(f.positions for f in here)
        must = "" if dtype != "float64" else "; it must be none: " + ("held" if not differ else "BROKEN")
        yield f"{dtype}: {differ} of {answers} drafted answers differ ({positions} of {every} positions){must}"
    if more := sum(f.more_forwards for f in flips):
        yield f"{more} drafted answers took more forwards than the undrafted ones"
