"""What a forward of several versions of every row costs, whatever becomes of the versions: where the machine is
saturated, and from it how many drafts must hold for drafting to pay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, median
from typing import NamedTuple

from dlm.bench.engine import Cell, Contender, Decode, Plan, decode_rounds, paired, random_rounds
from dlm.bench.tables import Column, brief

# Forwards per decode that count: those after the one that opens the block and has no drafts yet.
FORWARDS = 3
# A forward that takes so much longer than one of a single version is beyond the saturation point.
SATURATED = 1.1


@dataclass(frozen=True)
class ForwardFigures:
    """One forward of so many versions of every row, medians; a ratio is taken within a round."""

    model: str
    batch: int
    prompt: int
    block: int  # the last of its row
    cache: str
    layout: str
    versions: int  # states per row and forward, the present one included
    fed: float  # positions of the whole batch that the forward pushes through the body
    forward: float  # seconds inside the model, body and head
    forward_ratio: float  # forward / that of one version, undrafted
    step: float  # seconds of the whole step, sampling and drafting included
    step_ratio: float  # step / that of one version, undrafted
    limit: float  # seconds that arithmetic or weight reading alone would take for that forward
    # Share of the drafts that must be accepted for drafting to cost no more than not drafting; above 1 it cannot pay.
    # None for one version.
    break_even: float | None


class _Took(NamedTuple):
    """Medians of one decode: seconds in the model, of the whole step; positions fed and scored."""

    forward: float
    step: float
    fed: float
    scored: float


def measure_saturation(
    cell: Cell, cache: str, contenders: Sequence[Contender], row: tuple[int, int], rounds: int
) -> list[ForwardFigures]:
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
    _, *counted = decode_rounds(cell, contenders, Plan(jobs, most=1 + FORWARDS), f"{cell.name} x{cell.batch} {cache}")
    figures = []
    for contender in contenders:
        versions = 1 if contender.drafter is None else int(contender.drafter.draft_length)
        took = [(_took(own, versions), _took(base, 1)) for own, base in paired(counted, contender)]
        pairs = [(own, base) for own, base in took if own and base]
        if pairs:  # a block too short for so many versions has none
            layout = "" if contender.drafter is None else contender.drafter.layout
            figures.append(_figures(cell, (cache, layout, versions), row, pairs))
    return figures


def _took(decode: Decode, versions: int) -> _Took | None:
    """Medians of the forwards that had so many versions of every row; None: there was none."""
    full = [step for step in decode.steps[1:] if step.versions == versions]
    if not full:
        return None
    return _Took(
        median(step.inside for step in full),
        median(step.inside + step.sampler for step in full),
        mean(step.fed for step in full),
        mean(step.scored for step in full),
    )


def _figures(
    cell: Cell, what: tuple[str, str, int], row: tuple[int, int], pairs: Sequence[tuple[_Took, _Took]]
) -> ForwardFigures:
    cache, layout, versions = what
    step_ratio = median(own.step / base.step for own, base in pairs)
    fed = mean(own.fed for own, _ in pairs)
    return ForwardFigures(
        model=cell.name,
        batch=cell.batch,
        prompt=row[0],
        block=row[1],
        cache=cache,
        layout=layout,
        versions=versions,
        fed=fed,
        forward=median(own.forward for own, _ in pairs),
        forward_ratio=median(own.forward / base.forward for own, base in pairs),
        step=median(own.step for own, _ in pairs),
        step_ratio=step_ratio,
        limit=max(cell.least(sum(row), fed, mean(own.scored for own, _ in pairs))),
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
    Column("versions", lambda f: str(f.versions)),
    Column("fed", lambda f: f"{f.fed:.0f}"),
    Column("forward\nms", lambda f: f"{f.forward * 1000:.3g}"),
    Column("x", lambda f: f"{f.forward_ratio:.2f}"),
    Column("limit", lambda f: f"{f.limit / f.forward:.0%}"),
    Column("step\nms", lambda f: f"{f.step * 1000:.3g}"),
    Column("x", lambda f: f"{f.step_ratio:.2f}"),
    Column("pays\nfrom", lambda f: _pays_from(f)),
)


def _pays_from(f: ForwardFigures) -> str:
    return "-" if f.break_even is None else "never" if f.break_even > 1 else f"{f.break_even:.0%}"


def saturation_lines(figures: Sequence[ForwardFigures]) -> Iterator[str]:
    """Up to how many versions a forward takes hardly longer."""
    for (model, batch, cache), group in groupby(figures, key=lambda f: (f.model, f.batch, f.cache)):
        lines = list(group)
        for layout in dict.fromkeys(f.layout for f in lines if f.layout):
            cheap = [1, *(f.versions for f in lines if f.layout == layout and f.forward_ratio <= SATURATED)]
            yield (
                f"{model} x{batch}, {cache}, {layout}: a forward of up to {max(cheap)} version(s) takes at most"
                f" {SATURATED - 1:.0%} longer than one of 1"
            )
