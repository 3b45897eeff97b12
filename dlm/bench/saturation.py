"""What a forward of several versions of every row costs, whatever becomes of the versions: where the machine is
saturated, and from it how many drafts must hold for drafting to pay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import mean, median

from dlm.bench.engine import Cell, Contender, Decode, Measured, Step, Turns, decode_rounds, paired, random_rounds
from dlm.bench.tables import Column, brief

# Forwards per decode that count: those after the one that opens the block and has no drafts yet.
FORWARDS = 3
# A forward that takes so much longer than one of a single version is beyond the saturation point.
SATURATED = 1.1


def measure_saturation(
    cell: Cell, cache: str, contenders: Sequence[Contender], row: tuple[int, int], rounds: int
) -> list[Measured]:
    """Time the first forwards of a fresh block for every number of versions.

    Args:
        cell: what decodes.
        cache: what the contenders' cache is called.
        contenders: the first drafts nothing, the others as many versions as their draft length says; their sampler
            should commit one position per step.
        row: positions of the prompt, of random tokens, and of the one block after it.
        rounds: how often; one more warms up.
    """
    jobs = random_rounds(cell, *row, rounds)
    _, *counted = decode_rounds(cell, contenders, Turns(jobs, most=1 + FORWARDS), f"{cell.name} x{cell.batch} {cache}")
    figures = []
    for contender in contenders:
        versions = 1 if contender.drafter is None else int(contender.drafter.draft_length)
        took = [(_several(own, versions), _several(base, 1)) for own, base in paired(counted, contender)]
        pairs = [(own, base) for own, base in took if own and base]
        if pairs:  # a block too short for so many versions has none
            layout = "" if contender.drafter is None else contender.drafter.layout
            figures.append(_figures(cell, (cache, layout, versions), row, pairs))
    return figures


def _several(decode: Decode, versions: int) -> list[Step]:
    """The forwards that had so many versions of every row."""
    return [step for step in decode.steps[1:] if step.versions == versions]


def _figures(
    cell: Cell, what: tuple[str, str, int], row: tuple[int, int], pairs: Sequence[tuple[list[Step], list[Step]]]
) -> Measured:
    forwards, steps = (
        [tuple(median(map(seconds, side)) for side in pair) for pair in pairs]
        for seconds in (attrgetter("inside"), attrgetter("whole"))
    )
    step_ratio = median(own / base for own, base in steps)
    fed, scored = (mean(mean(getattr(s, name) for s in own) for own, _ in pairs) for name in ("fed", "scored"))
    cache, layout, versions = what
    return Measured(
        model=cell.name,
        batch=cell.batch,
        prompt=row[0],
        block=row[1],
        cache=cache,
        layout=layout,
        versions=versions,  # states per row and forward, the present one included
        fed=fed,  # positions of the whole batch
        forward=median(own for own, _ in forwards),  # seconds inside the model
        forward_ratio=median(own / base for own, base in forwards),
        step=median(own for own, _ in steps),  # seconds of all, sampling and drafting included
        step_ratio=step_ratio,
        limit=max(cell.least(sum(row), fed, scored)),
        # Share of the drafts that must be accepted for drafting to cost no more than not drafting; above 1: never.
        break_even=None if versions == 1 else max(0.0, (step_ratio - 1) / (versions - 1)),
    )


CAPTION = (
    "fed: positions of the batch; x: as many times one version's; limit: arithmetic or weight reading alone, as a"
    " share; step: sampling and drafting included; pays from: share of the drafts that must be accepted for drafting to"
    " cost no more than not drafting"
)
COLUMNS = (
    Column("cache", lambda f: brief(f.cache), words=True),
    Column("layout", lambda f: f.layout or "-", words=True),
    Column("versions", "versions"),
    Column("fed", "fed", ".0f"),
    Column("forward\nms", lambda f: f"{f.forward * 1000:.3g}"),
    Column("x", "forward_ratio", ".2f"),
    Column("limit", lambda f: f"{f.limit / f.forward:.0%}"),
    Column("step\nms", lambda f: f"{f.step * 1000:.3g}"),
    Column("x", "step_ratio", ".2f"),
    Column(
        "pays\nfrom", lambda f: "-" if f.break_even is None else "never" if f.break_even > 1 else f"{f.break_even:.0%}"
    ),
)


def saturation_lines(figures: Sequence[Measured]) -> Iterator[str]:
    """Up to how many versions a forward takes hardly longer."""
    for (model, batch, cache), group in groupby(figures, key=lambda f: (f.model, f.batch, f.cache)):
        lines = list(group)
        for layout in dict.fromkeys(f.layout for f in lines if f.layout):
            cheap = [1, *(f.versions for f in lines if f.layout == layout and f.forward_ratio <= SATURATED)]
            yield (
                f"{model} x{batch}, {cache}, {layout}: a forward of up to {max(cheap)} version(s) takes at most"
                f" {SATURATED - 1:.0%} longer than one of 1"
            )
