"""How often drafting changes an answer: a tie that rounding decides the other way, counted in each number format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from dlm.bench.engine import Cell, Contender, Decode, Measured, Turns, decode_rounds, tried
from dlm.bench.tables import Column, brief, table
from dlm.engine.canvas import Job
from dlm.engine.result import RowResult


def differing(own: Mapping[int, RowResult], other: Mapping[int, RowResult]) -> tuple[int, int]:
    """Answers, and positions of all answers, that are not those of another run of the same prompts."""
    per_answer = [
        sum(a != b for a, b in zip(own[index].tokens, other[index].tokens, strict=True)) for index in sorted(other)
    ]
    return sum(number > 0 for number in per_answer), sum(per_answer)


def flips_of(cell: Cell, names: dict[str, str], contenders: Sequence[Contender], jobs: Sequence[Job]) -> list[Measured]:
    """Decode once with every drafter and once without, and compare. What is refused is left out: the timed part has
    said so.

    Args:
        cell: the model; all prompts are one batch.
        names: ``prompts``, ``dtype``, ``sampler`` and ``cache``.
        contenders: what decodes; the first drafts nothing.
        jobs: the prompts.
    """
    ready, _ = tried(contenders, lambda contender: Decode.of(cell, contender, jobs, most=1).advance())
    running = [contender for contender in contenders if contender.label in ready]
    (runs,) = decode_rounds(
        cell, running, Turns([jobs]), f"{cell.name} {' '.join(names.values())}: answers that differ"
    )
    base = runs[running[0].label].results
    positions = sum(len(result.tokens) for result in base.values())
    figures = []
    for contender in running[1:]:
        own = runs[contender.label].results
        answers_differ, positions_differ = differing(own, base)
        more = sum(own[index].counts.forwards > base[index].counts.forwards for index in base)
        figures.append(
            Measured(
                model=cell.name,
                **names,
                drafts=contender.label,
                answers=len(base),
                answers_differ=answers_differ,
                positions=positions,
                positions_differ=positions_differ,
                more_forwards=more,
            )
        )
    return figures


def flips_table(figures: Sequence[Measured]) -> Table:
    """Answers that differ from the undrafted ones, all prompts together, a column per number format."""
    lines: dict[tuple[str, str, str], list[Measured]] = {}
    for f in figures:
        lines.setdefault((f.sampler, f.cache, f.drafts), []).append(f)
    first, *_ = lines.values()
    answers = sum(f.answers for f in first if f.dtype == first[0].dtype)

    def at(dtype: str) -> Column:
        def cell(line: Sequence[Measured]) -> str:
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


def flip_lines(flips: Sequence[Measured]) -> Iterator[str]:
    """Per number format how many differ: in float64 it must be none."""
    for dtype in dict.fromkeys(f.dtype for f in flips):
        here = [f for f in flips if f.dtype == dtype]
        differ, answers = sum(f.answers_differ for f in here), sum(f.answers for f in here)
        positions, every = sum(f.positions_differ for f in here), sum(f.positions for f in here)
        must = "" if dtype != "float64" else "; it must be none: " + ("held" if not differ else "BROKEN")
        yield f"{dtype}: {differ} of {answers} drafted answers differ ({positions} of {every} positions){must}"
    if more := sum(f.more_forwards for f in flips):
        yield f"{more} drafted answers took more forwards than the undrafted ones"
