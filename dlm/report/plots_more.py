"""Pictures of methods and tasks side by side, of forwards, and of the order of decoding."""

from __future__ import annotations

from collections import Counter
from math import log2

import numpy as np

from dlm.evaluation.pictures import label_points
from dlm.report.figures import Figures
from dlm.report.plots import COLORS, INK, MAP, Drawn, name_axes, name_panel, new_figure, panels
from dlm.report.summary import Summary

MOST_METHODS = 24  # lines of the heat map
MOST_PANELS = 8
MOST_BARS = 40
BINS = 10  # parts of the steps of a row, in the picture of the order; fewer where most rows have fewer steps
BRIGHT = 0.48  # of the colour map; texts are black above it


def heat_map(summary: Summary) -> Drawn | None:
    """Score of each method on each task at one speed."""
    methods = [m for m in summary.methods if any(key[0] == m for key in summary.heat)][:MOST_METHODS]
    if not methods or len(summary.heat) < 2:
        return None
    table = np.array([[100 * summary.heat.get((m, t), np.nan) for t in summary.tasks] for m in methods])
    # Places are counted out: so many texts are slow to lay out.
    left, below = 0.35 + 0.078 * max(map(len, methods)), 0.25 + 0.055 * max(map(len, summary.tasks))
    wide, high = max(3.0, 0.55 * len(summary.tasks)), 0.34 * len(methods)
    width, height = left + wide + 1.1, below + high + 0.2
    figure = new_figure(width, height, layout=None)
    axes = figure.add_axes((left / width, below / height, wide / width, high / height))
    image = axes.imshow(table, cmap=MAP, vmin=0, vmax=100, aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(summary.tasks)), summary.tasks, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(methods)), methods)
    for (i, j), value in np.ndenumerate(table):
        told = "" if np.isnan(value) else f"{value:.0f}"
        color = "#000001" if value > 100 * BRIGHT else "#fffffe"
        axes.text(j, i, told, ha="center", va="center", fontsize=8, color=color)
    axes.spines[:].set_visible(False)
    place = figure.add_axes(((left + wide + 0.2) / width, below / height, 0.14 / width, high / height))
    figure.colorbar(image, cax=place, label="score, %").outline.set_visible(False)
    rows = [(m, t, summary.heat.get((m, t))) for m in methods for t in summary.tasks]
    title = f"Score at {summary.at:g} tokens per forward (between measured points; blank: not measured on both sides)"
    return Drawn(title, figure, ("method", "task", "score"), rows)


def task_map(summary: Summary) -> Drawn | None:
    """Tasks by how well they decode in parallel and by the block length they like."""
    found = [m for m in summary.mapped if m.parallelisability == m.parallelisability]
    if len(found) < 2:
        return None
    both = [m for m in found if m.order == m.order]
    heads = ("task", "parallelisability", "order", "method", "order_method")
    rows = [(m.task, m.parallelisability, m.order, m.method, m.order_method) for m in summary.mapped]
    below = f"parallelisability over the settings of {found[0].method} (left: hard to decode in parallel)"
    if len(both) < 2:
        found.sort(key=lambda m: -m.parallelisability)
        figure = new_figure(7.4, 1.2 + 0.27 * len(found))
        axes = figure.subplots()
        axes.plot([m.parallelisability for m in found], range(len(found)), "o", color=COLORS[0])
        axes.set_yticks(range(len(found)), [m.task for m in found])
        axes.set_xlabel(below)
        return Drawn("Map of tasks (block lengths were not swept)", figure, heads, rows)
    figure = new_figure(8.2, 5.6, layout=None)
    axes = figure.add_axes((0.1, 0.11, 0.86, 0.85))
    points = [(m.parallelisability, m.order) for m in both]
    axes.axhline(0, color=INK, linewidth=0.6, linestyle=":")
    axes.plot([x for x, _ in points], [y for _, y in points], "o", color=COLORS[0])
    axes.margins(0.18)
    axes.set_xlabel(below)
    axes.set_ylabel("points of score per doubling of the block length\n(up: large blocks, down: small blocks)")
    axes.autoscale_view()  # labels are placed where points are on the paper
    label_points(axes, points, [m.task for m in both])
    return Drawn("Map of tasks", figure, heads, rows)


def nearest(summary: Summary) -> dict[str, list[Figures]]:
    """Per method its point on each task whose speed is nearest to the heat map's."""
    found: dict[tuple[str, str], Figures] = {}

    def distance(f: Figures) -> float:
        return abs(log2(f.row.tokens_per_forward / summary.at)) if f.row.tokens_per_forward > 0 else float("inf")

    for f in summary.figures:
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
