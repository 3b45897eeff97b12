"""Pictures of what a training's log says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Log = Sequence[Mapping[str, Any]]


def means(lines: Log, name: str, over: int = 1) -> tuple[list[int], list[float]]:
    """A figure of the log by step, the mean over the ``over`` lines up to each."""
    found = [(line["step"], float(line[name])) for line in lines if name in line]
    values = np.array([value for _, value in found])
    return [step for step, _ in found], [float(values[max(0, i + 1 - over) : i + 1].mean()) for i in range(len(found))]


def draw(runs: Mapping[str, Sequence[Log]], name: str | None, path: Path, title: str = "") -> None:
    """A figure by step: a line for each label, the mean of its runs, and what they span; ``name`` None: the figure that
    the label names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for label, logs in runs.items():
        curves = [means(log, name or label, max(1, len(log) // 10)) for log in logs]
        steps = min((steps for steps, _ in curves), key=len)
        values = np.array([values[: len(steps)] for _, values in curves])
        (line,) = axes.plot(steps, values.mean(axis=0), label=label)
        if len(logs) > 1:
            axes.fill_between(steps, values.min(axis=0), values.max(axis=0), alpha=0.15, color=line.get_color())
    axes.set(xlabel="step", ylabel=(name or "").replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    if any(runs):
        axes.legend()
    figure.savefig(path, dpi=130)
