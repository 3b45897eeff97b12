"""Pictures of how samples were decoded: in how many forwards, and in which order."""

from __future__ import annotations

from collections import Counter
from math import log2

import numpy as np

from dlm.report.figures import Figures
from dlm.report.plots import COLORS, MAP, Drawn, name_axes, name_panel, panels
from dlm.report.summary import Summary

MOST_PANELS = 8
MOST_BARS = 40
BINS = 10  # parts of the steps of a row, in the picture of the order; fewer where most rows have fewer steps


def nearest(summary: Summary) -> dict[str, list[Figures]]:
    """Per method its point on each task whose speed is nearest to the heat map's."""
    found: dict[tuple[str, str], Figures] = {}

    def distance(f: Figures) -> float:
        return abs(log2(f.row.tokens_per_forward / summary.at)) if f.row.tokens_per_forward > 0 else float("inf")

    for f in summary.compared:
        key = f.row.method, f.row.task
        if f.row.samples and (key not in found or distance(f) < distance(found[key])):
            found[key] = f
    methods: dict[str, list[Figures]] = {m: [] for m in summary.methods}
    for (method, _), f in found.items():
        methods[method].append(f)
    return {method: group for method, group in list(methods.items())[:MOST_PANELS] if group}


def forwards(summary: Summary) -> Drawn | None:
    """A panel per method: how many forwards samples took, tasks pooled."""
    from matplotlib.ticker import MaxNLocator

    groups = nearest(summary)
    if not groups:
        return None
    counts = {m: np.concatenate([f.result.columns["forwards"] for f in group]) for m, group in groups.items()}
    least, most = (int(f(c.max() if f is max else c.min() for c in counts.values())) for f in (min, max))
    wide = -(-(most - least + 1) // MOST_BARS)
    edges = np.arange(least - 0.5, most + 0.5 + wide, wide)
    figure, axes = panels(len(counts), height=1.4, legend=False, one_scale=False)
    rows = []
    for (method, values), panel in zip(counts.items(), axes, strict=True):
        shares = np.histogram(values, edges)[0] / len(values)
        panel.bar(edges[:-1], 100 * shares, width=np.diff(edges), align="edge", color=COLORS[0], linewidth=0)
        panel.axvline(values.mean(), color=COLORS[1], linewidth=1.4)
        name_panel(panel, method)
        panel.set_xlim(edges[0] - 0.5, edges[-1] + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        rows += [(method, *cell) for cell in zip(edges[:-1], edges[1:], shares, strict=True)]
    name_axes(figure, "forwards of a sample", "samples, %")
    title = f"Forwards at the settings nearest to {summary.at:g} tokens per forward, tasks pooled (line: mean)"
    return Drawn(title, figure, ("method", "from", "below", "share"), rows)


def decoding_order(summary: Summary) -> Drawn | None:
    """A panel per method: when each position was fixed."""
    from matplotlib.ticker import MaxNLocator

    groups = nearest(summary)
    widths = Counter(f.result.columns.commit_step.shape[1] for group in groups.values() for f in group)
    if not widths or (width := max(widths, key=lambda w: (widths[w], w))) < 2:
        return None
    whole = {m: np.concatenate([c for f in g if (c := f.result.columns.commit_step).shape[1] == width])
             for m, g in groups.items() if any(f.result.columns.commit_step.shape[1] == width for f in g)}  # fmt: skip
    deep = np.median(np.concatenate([steps.max(axis=1) for steps in whole.values()])) + 1
    bins = int(np.clip(deep, 2, BINS))
    tables = {method: _when(steps, bins) for method, steps in whole.items()}
    figure, axes = panels(len(tables), room=0.8, legend=False)
    rows: list[tuple] = []
    for (method, table), panel in zip(tables.items(), axes, strict=True):
        panel.imshow(100 * table, cmap=MAP, vmin=0, vmax=50, origin="lower", extent=(0, width, 0, 100), aspect="auto")
        panel.grid(visible=False)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        name_panel(panel, method)
        rows += [(method, j, (i + 0.5) / bins, table[i, j]) for j in range(width) for i in range(bins)]
    name_axes(figure, "position", "steps gone, %")
    inches = figure.get_size_inches()[0]
    rest = figure.add_axes((1 - 0.75 / inches, 0.2, 0.12 / inches, 0.55))
    bar = figure.colorbar(panel.images[0], cax=rest, label="samples, %", extend="max")
    bar.outline.set_visible(False)
    title = f"When each of {width} positions was fixed, at the settings nearest to {summary.at:g} tokens per forward"
    return Drawn(title, figure, ("method", "position", "steps_gone", "share"), rows)


def _when(steps: np.ndarray, bins: int) -> np.ndarray:
    """[bins, M] share of the samples that fixed a position in each part of their steps, of [N, M] commit steps."""
    last, width = np.maximum(steps.max(axis=1, keepdims=True), 1), steps.shape[1]
    inside = steps >= 0
    cells = np.where(inside, steps * bins // (last + 1) * width + np.arange(width), bins * width)
    table = np.bincount(cells.ravel(), minlength=bins * width + 1)[:-1].reshape(bins, width)
    return table / np.maximum(1, inside.sum(axis=0))
