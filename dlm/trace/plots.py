"""Heat maps of a trace: what was committed when, and how sure the model was. Matplotlib is imported when drawing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlm.files import whole, write_whole
from dlm.trace.steps import Trace
from dlm.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
FIGURE = (9.0, 6.0)  # inches
MOST_TEXTS = 64  # positions up to which their tokens stand at the axis
ORDER, SURE, MASKED, GIVEN = "viridis", "magma", "0.92", "0.75"


def commit_steps(trace: Trace) -> np.ndarray:
    """Per forward and generated position the 1-based forward that committed what stands there; 0: masked; -1: given or
    filled by a rule. ``[forwards + 1, positions]``"""
    lines, when = [], np.where(np.array(trace.canvas) == trace.mask_id, 0, -1)
    lines.append(when)
    for number, (step, canvas) in enumerate(zip(trace.steps, list(trace.replay())[1:], strict=True), start=1):
        when = when.copy()
        when[step.positions] = number
        tokens = np.array(canvas)
        when[tokens == trace.mask_id] = 0
        if step.filled is not None:
            first = 0 if step.cut is None else step.cut
            was = lines[-1] if step.cut is None else lines[0]
            committed = np.isin(np.arange(len(tokens)), step.positions) & (step.cut is None)
            when[(np.arange(len(tokens)) >= first) & (was == 0) & ~committed] = -1
        lines.append(when)
    return np.stack(lines)[:, trace.start :]


def confidences(trace: Trace) -> np.ndarray:
    """Per forward and generated position the probability of its proposal, where one was recorded; NaN elsewhere.
    ``[forwards, positions]``"""
    map_ = np.full((len(trace.steps), len(trace.canvas)), np.nan)
    for line, step in zip(map_, trace.steps, strict=True):
        for position, prob in (step.confidence or {}).items():
            line[position] = prob
        line[step.positions] = step.probs
    return map_[:, trace.start :]


def draw(trace: Trace, rows: Sequence[Trace], stem: Path) -> list[Path]:
    """Write ``STEM-order``, ``STEM-confidence`` and, of several rows, ``STEM-rows``, each as PNG, SVG and CSV.

    Every file appears whole or not at all. Returns the files.
    """
    written = []
    drawings: list[tuple[str, Any, Any, Any]] = [
        ("order", _order, trace, _order_lines),
        ("confidence", _confidence, trace, _confidence_lines),
    ]
    if len(rows) > 1:
        drawings.append(("rows", _rows, rows, _rows_lines))
    for name, paint, what, lines in drawings:
        written += _save(paint, what, stem.with_name(f"{stem.name}-{name}"))
        table = stem.with_name(f"{stem.name}-{name}.csv")
        write_whole(table, _csv(lines(what)))
        written.append(table)
    return written


def _save(paint: Any, what: Any, stem: Path) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=FIGURE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    paint(figure.add_subplot(), what)
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    for path in files:
        with whole(path, sync=False) as partial:
            figure.savefig(partial, format=path.suffix[1:])
    return files


def _order(axes: Axes, trace: Trace) -> None:
    """Colour: the forward that committed what stands there; a white dot where it did."""
    when = commit_steps(trace)[1:]
    _frame(axes, trace, "decoding order: the forward that committed what stands at each position")
    committed = np.ma.masked_less_equal(when, 0)
    _image(axes, _shade(when))
    image = _image(axes, committed, cmap=ORDER, vmin=1, vmax=max(2, len(when)))
    _marks(axes, trace, "white")
    _bar(axes, image, "forward of the commit")


def _confidence(axes: Axes, trace: Trace) -> None:
    """Colour: the probability of the proposal; a ring where it was committed."""
    sure = confidences(trace)
    full = any(step.confidence for step in trace.steps)
    _frame(axes, trace, "confidence of the proposals" + ("" if full else " (of the commits: no more was recorded)"))
    axes.set_facecolor(MASKED)
    image = _image(axes, np.ma.masked_invalid(sure), cmap=SURE, vmin=0, vmax=1)
    _marks(axes, trace, "tab:cyan")
    _bar(axes, image, "probability")


def _rows(axes: Axes, rows: Sequence[Trace]) -> None:
    """Colour: when in the course of its row a position was committed for good, from 0 to 1."""
    shares = _final_shares(rows)
    axes.set_facecolor(MASKED)
    extent = (-0.5, shares.shape[1] - 0.5, len(rows) - 0.5, -0.5)
    image = _image(axes, np.ma.masked_invalid(shares), cmap=ORDER, vmin=0, vmax=1, extent=extent, origin="upper")
    _named(axes, "row", f"decoding order of {counted(len(rows), 'row')}")
    _bar(axes, image, "share of the row's forwards until the commit")


def _frame(axes: Axes, trace: Trace, title: str) -> None:
    """Axes and title, with the borders of the blocks."""
    count, forwards = len(trace.canvas) - trace.start, max(1, len(trace.steps))
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(forwards + 0.5, 0.5)
    _named(axes, "forward", title)
    for number, step in enumerate(trace.steps, start=1):
        for edge in step.block:
            at = edge - trace.start - 0.5
            axes.plot([at, at], [number - 0.5, number + 0.5], color="tab:red", linewidth=1.0, zorder=4)
    if trace.pieces and count <= MOST_TEXTS:
        last = list(trace.replay())[-1][trace.start :]
        texts = [_label(trace.pieces.get(token, str(token))) for token in last]
        axes.set_xticks(range(count), texts, rotation=90, fontsize=6, parse_math=False)


def _named(axes: Axes, lines: str, title: str) -> None:
    """Labels; ticks between forwards or positions mean nothing."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("generated position")
    axes.set_ylabel(lines)
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=10)


def _marks(axes: Axes, trace: Trace, color: str) -> None:
    """A dot at every commit, a cross where one was taken back."""
    for attribute, marker, paint in (("positions", "o", color), ("remasked", "x", "tab:red")):
        places = [
            (position - trace.start, number)
            for number, step in enumerate(trace.steps, start=1)
            for position in getattr(step, attribute)
        ]
        if places:
            x, y = zip(*places, strict=True)
            edges = {"edgecolors": "0.2", "linewidths": 0.4} if marker == "o" else {"linewidths": 1.0}
            axes.scatter(x, y, s=10, marker=marker, color=paint, zorder=5, **edges)


def _bar(axes: Axes, image: Any, label: str) -> None:
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label=label, fraction=0.04, pad=0.02)


def _image(axes: Axes, lines: np.ndarray, **how: Any) -> Any:
    """A cell per forward (from 1) and position (from 0), unless ``how`` says otherwise."""
    extent = (-0.5, lines.shape[1] - 0.5, 0.5, len(lines) + 0.5)
    return axes.imshow(lines, aspect="auto", interpolation="nearest", **{"extent": extent, "origin": "lower", **how})


def _shade(when: np.ndarray) -> np.ndarray:
    """Grey levels for what no forward committed: masked light, given or filled darker."""
    level = np.where(when == 0, float(MASKED), float(GIVEN))
    return np.repeat(level[:, :, None], 3, axis=2)


def _final_shares(rows: Sequence[Trace]) -> np.ndarray:
    """Per row and position the share of the row's forwards up to its last commit; NaN where none committed it."""
    shares = np.full((len(rows), max(len(t.canvas) - t.start for t in rows)), np.nan)
    for line, trace in zip(shares, rows, strict=True):
        last = commit_steps(trace)[-1]
        line[: len(last)] = np.where(last > 0, last / max(1, len(trace.steps)), np.nan)
    return shares


def _order_lines(trace: Trace) -> Iterator[dict[str, Any]]:
    for number, step in enumerate(trace.steps, start=1):
        for position, token, prob in zip(step.positions, step.tokens, step.probs, strict=True):
            yield {
                "forward": number, "position": position - trace.start, "token": token,
                "text": trace.pieces.get(token, ""), "probability": prob,
                "block_start": step.block[0] - trace.start, "block_end": step.block[1] - trace.start,
            }  # fmt: skip


def _confidence_lines(trace: Trace) -> Iterator[dict[str, Any]]:
    taken = [set(step.positions) for step in trace.steps]
    map_ = confidences(trace)
    for line, place in np.argwhere(~np.isnan(map_)).tolist():
        yield {
            "forward": line + 1, "position": place, "probability": map_[line, place],
            "committed": int(place + trace.start in taken[line]),
        }  # fmt: skip


def _rows_lines(rows: Sequence[Trace]) -> Iterator[dict[str, Any]]:
    for index, trace in enumerate(rows):
        for place, forward in enumerate(commit_steps(trace)[-1].tolist()):
            if forward > 0:
                yield {"row": index, "position": place, "forward": forward, "forwards": len(trace.steps)}


def _csv(lines: Iterator[dict[str, Any]]) -> str:
    table, writer = io.StringIO(), None
    for line in lines:
        if writer is None:
            writer = csv.DictWriter(table, list(line), lineterminator="\n")
            writer.writeheader()
        writer.writerow(line)
    return table.getvalue()


def _label(piece: str) -> str:
    """A token at the axis: short, on one line."""
    if piece.startswith("<|") and piece.endswith("|>"):
        return "·"
    text = "".join(c if c.isprintable() else "·" for c in piece.replace("\n", "⏎"))
    return text if len(text) <= 12 else text[:11] + "…"
