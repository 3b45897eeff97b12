"""How ``dlm bench drafting`` shows its figures: four tables, and the lines below them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dlm.bench.draft_figures import DraftFigures, FlipFigures
from dlm.bench.draft_knee import ForwardFigures

# How much slower than not drafting a draft length that chooses itself may be.
AUTO_SLOWER = 1.05
# A forward that takes so much longer is where the knee is.
KNEE = 1.1


def forwards_table(figures: Sequence[DraftFigures]) -> Table:
    """What drafting saves and what it feeds for it."""
    first = figures[0]
    table = _empty(
        f"{first.model} x{first.batch}, {first.prompts}: forwards, {first.answers} answers",
        "saved: of the undrafted forwards; accepted: drafts per forward, and of those evaluated; fed: positions through"
        " the body, and how many times the undrafted; differ: answers that are not the undrafted ones, positions",
        ("sampler, cache", "drafts"),
    )
    for heading in ("for-\nwards", "saved", "accepted\n/forward", "accepted\nof all", "fed", "fed\nx", "differ"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group, f in _grouped(figures):
        table.add_row(
            group,
            Text(f.drafts),
            f"{f.forwards:.1f}",
            f"{f.saved:.0%}",
            f"{f.accepted:.2f}",
            "-" if f.accepted_share is None else f"{f.accepted_share:.0%}",
            f"{f.token_forwards:.0f}",
            f"{f.token_ratio:.2f}",
            _differ(f.answers_differ, f.positions_differ),
        )
    return table


def seconds_table(figures: Sequence[DraftFigures]) -> Table:
    """What it costs in time and memory."""
    first = figures[0]
    table = _empty(
        f"{first.model} x{first.batch}, {first.prompts}: seconds",
        "ratio: undrafted / this, in seconds of the same round (above 1: faster); again: the undrafted run once more,"
        " its distance from 1 is noise; outside: share of the time outside the model; limit: time that arithmetic or"
        " weight reading alone would take, as a share; MB: peak beyond the model",
        ("sampler, cache", "drafts"),
    )
    for heading in ("seconds", "ratio", "from - to", "outside", "limit", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group, f in _grouped(figures):
        table.add_row(
            group,
            Text(f.drafts),
            f"{f.seconds:.3g}",
            f"{f.ratio:.2f}",
            f"{f.ratio_least:.2f}-{f.ratio_most:.2f}" if f.ratio_least < f.ratio_most else "-",
            f"{f.outside:.0%}",
            f"{f.limit / f.seconds:.0%}",
            f"{f.peak / 1e6:.1f}",
        )
    return table


def knee_table(figures: Sequence[ForwardFigures]) -> Table:
    """What a forward of several versions costs, whatever becomes of them."""
    first = figures[0]
    table = _empty(
        f"{first.model} x{first.batch}: one forward of several versions (prompt {first.prompt}, block {first.block})",
        "fed: positions of the batch; x: as many times one version's; limit: arithmetic or weight reading alone, as a"
        " share; step: sampling and drafting included; pays from: share of the drafts that must be accepted for"
        " drafting to cost no more than not drafting",
        ("cache", "layout"),
    )
    for heading in ("versions", "fed", "forward\nms", "x", "limit", "step\nms", "x", "pays\nfrom"):
        table.add_column(heading, justify="right", no_wrap=True)
    for f in figures:
        table.add_row(
            Text(_short(f.cache)),
            Text(f.layout or "-"),
            str(f.versions),
            f"{f.fed:.0f}",
            f"{f.forward * 1000:.3g}",
            f"{f.forward_ratio:.2f}",
            f"{f.limit / f.forward:.0%}",
            f"{f.step * 1000:.3g}",
            f"{f.step_ratio:.2f}",
            "-" if f.break_even is None else "never" if f.break_even > 1 else f"{f.break_even:.0%}",
        )
    return table


def flips_table(figures: Sequence[FlipFigures]) -> Table:
    """Answers that differ from the undrafted ones, all prompts together, a column per number format."""
    dtypes = list(dict.fromkeys(f.dtype for f in figures))
    first = figures[0]
    answers = sum(f.answers for f in figures if _line(f) == _line(first) and f.dtype == first.dtype)
    table = _empty(
        f"{first.model}: answers that differ from the undrafted ones, of {answers}, in each number format",
        "in brackets: positions that differ",
        ("sampler, cache", "drafts"),
    )
    for dtype in dtypes:
        table.add_column(dtype, justify="right", no_wrap=True)
    lines = dict.fromkeys(_line(f) for f in figures)
    shown = ""
    for line in lines:
        group = f"{_short(line[0])}, {_short(line[1])}"
        cells = []
        for dtype in dtypes:
            here = [f for f in figures if _line(f) == line and f.dtype == dtype]
            cells.append(_differ(sum(f.answers_differ for f in here), sum(f.positions_differ for f in here)))
        table.add_row(Text("" if group == shown else group), Text(line[2]), *cells)
        shown = group
    return table


def verdicts(
    figures: Sequence[DraftFigures], flips: Sequence[FlipFigures], knees: Sequence[ForwardFigures]
) -> list[str]:
    """What was promised, and whether it held."""
    lines = []
    if auto := [f for f in figures if f.draft_length == "auto"]:
        late = [f for f in auto if f.ratio * AUTO_SLOWER < 1]
        noise = [1 / f.ratio for f in figures if f.drafts == "again"]
        lines.append(
            f"draft_length=auto took at most {AUTO_SLOWER - 1:.0%} longer than no drafts in {len(auto) - len(late)} of"
            f" {len(auto)} lines (longest: {max(1 / f.ratio for f in auto):.2f} of the time; the undrafted run"
            f" repeated: {min(noise):.2f} to {max(noise):.2f})"
        )
        lines += [f"  longer: {_named(f)}: {1 / f.ratio:.2f} of the time" for f in late]
    for model in dict.fromkeys(f.model for f in figures):
        drafted = [f for f in figures if f.model == model and f.draft_length is not None]
        differ, answers = sum(f.answers_differ for f in drafted), sum(f.answers for f in drafted)
        lines.append(f"{model}, timed runs: {differ} of {answers} drafted answers differ")
    for dtype, group in _by_dtype(flips):
        differ, answers = sum(f.answers_differ for f in group), sum(f.answers for f in group)
        positions, all_ = sum(f.positions_differ for f in group), sum(f.positions for f in group)
        must = "" if dtype != "float64" else "; it must be none: " + ("held" if not differ else "BROKEN")
        lines.append(f"{dtype}: {differ} of {answers} drafted answers differ ({positions} of {all_} positions){must}")
    if more := sum(f.more_forwards for f in flips):
        lines.append(f"{more} drafted answers took more forwards than the undrafted ones")
    return lines + list(_knee_lines(knees))


def _knee_lines(figures: Sequence[ForwardFigures]) -> Iterator[str]:
    """Up to how many versions a forward takes hardly longer."""
    for _, group in groupby(figures, key=lambda f: (f.model, f.batch, f.cache)):
        lines = list(group)
        for layout in dict.fromkeys(f.layout for f in lines if f.layout):
            cheap = [1, *(f.versions for f in lines if f.layout == layout and f.forward_ratio <= KNEE)]
            first = lines[0]
            yield (
                f"{first.model} x{first.batch}, {first.cache}, {layout}: a forward of up to {max(cheap)} version(s)"
                f" takes at most {KNEE - 1:.0%} longer than one of 1"
            )


def _by_dtype(flips: Sequence[FlipFigures]) -> Iterator[tuple[str, list[FlipFigures]]]:
    for dtype in dict.fromkeys(f.dtype for f in flips):
        yield dtype, [f for f in flips if f.dtype == dtype]


def _named(f: DraftFigures) -> str:
    return f"{f.model} x{f.batch}, {f.prompts}, {f.sampler}, {f.cache}, {f.drafts}"


def _line(f: FlipFigures) -> tuple[str, str, str]:
    return f.sampler, f.cache, f.drafts


def _grouped(figures: Iterable[DraftFigures]) -> Iterator[tuple[Text, DraftFigures]]:
    """Every line, with the name of its group at the first of them."""
    shown = ""
    for f in figures:
        group = f"{_short(f.sampler)}, {_short(f.cache)}"
        yield Text("" if group == shown else group), f
        shown = group


def _short(label: str) -> str:
    """``threshold:threshold=0.9`` as ``threshold:0.9``."""
    name, colon, settings = label.partition(":")
    return name + colon + re.sub(r"\b[a-z_.]+=", "", settings)


def _differ(answers: int, positions: int) -> str:
    return f"{answers} ({positions})" if answers else "0"


def _empty(title: str, caption: str, names: Sequence[str]) -> Table:
    table = Table(
        title=Text(title), title_style="bold", title_justify="left", caption=caption, caption_justify="left",
        box=SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    for name in names:
        table.add_column(name, no_wrap=True)
    return table
