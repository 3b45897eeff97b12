"""Pictures of methods and tasks side by side."""

from __future__ import annotations

import numpy as np

from dlm.report.plots import COLORS, INK, MAP, Drawn, new_figure
from dlm.report.plots_points import label_points
from dlm.report.summary import Summary

MOST_METHODS = 24  # lines of the heat map
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
