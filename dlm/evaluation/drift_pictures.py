"""The drift of a cache in one picture: divergence by step, stale keys by layer. Matplotlib is imported when it is
drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from dlm.evaluation.drift import KINDS, Drift, KeyDrift, StepDrift
from dlm.files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 130
LEAST = 1e-9  # nats; what is smaller is drawn here, since a logarithmic axis has no 0
COLORS = dict(zip(KINDS, ("tab:gray", "tab:green", "tab:orange", "tab:blue"), strict=True))


def by_step(steps: Sequence[StepDrift]) -> dict[int, list[StepDrift]]:
    """The rows at each step, steps ascending."""
    groups: dict[int, list[StepDrift]] = {}
    for step in sorted(steps, key=lambda s: s.step):
        groups.setdefault(step.step, []).append(step)
    return groups


def between_refreshes(keys: Sequence[KeyDrift]) -> list[KeyDrift]:
    """The lines of steps that were no refresh, whose keys are fresh by construction; all when there is no other."""
    return [line for line in keys if line.age > 0] or list(keys)


def draw(drift: Drift, title: str, path: Path) -> None:
    """Write the picture as PNG; the file appears whole or not at all. Figures of several prompts are averaged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 9.0 if drift.keys else 5.5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4 if drift.keys else 2, 1)
    _divergence(axes[0], drift.steps)
    axes[0].set_title(title, fontsize=10, parse_math=False)
    _agreement(axes[1], drift.steps)
    if drift.keys:
        _stale_by_step(axes[2], drift.keys)
        _stale_by_layer(axes[3], drift.keys)
    with whole(path, sync=False) as partial:
        figure.savefig(partial, format="png")


def _divergence(axes: Axes, steps: Sequence[StepDrift]) -> None:
    groups = by_step(steps)
    at = list(groups)
    mean = [max(LEAST, fmean(s.kl_mean for s in group)) for group in groups.values()]
    most = [max(LEAST, *(s.kl_max for s in group)) for group in groups.values()]
    axes.fill_between(at, mean, most, color="tab:blue", alpha=0.2, linewidth=0, label="to the largest")
    axes.plot(at, mean, color="tab:blue", linewidth=1.2, label="mean")
    refreshed = [step for step, group in groups.items() if any(s.age == 0 for s in group)]
    axes.plot(
        refreshed, [LEAST] * len(refreshed), "|", color="tab:red", markersize=9, label="a row is recomputed whole"
    )
    axes.set_yscale("log")
    axes.set_ylim(LEAST / 3, max(1.0, 3 * max(most)))
    axes.set_ylabel("KL(exact || cached), nats")
    _finish(axes, "step")


def _agreement(axes: Axes, steps: Sequence[StepDrift]) -> None:
    groups = by_step(steps)
    for name, color, figure in (
        ("same most probable token", "tab:green", [fmean(s.agreement for s in group) for group in groups.values()]),
        ("same choice", "tab:purple", [fmean(s.same_choice for s in group) for group in groups.values()]),
    ):
        axes.plot(list(groups), [100 * share for share in figure], color=color, linewidth=1.2, label=name)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("%")
    _finish(axes, "step")


def _stale_by_step(axes: Axes, keys: Sequence[KeyDrift]) -> None:
    """The last layer, where differences have piled up."""
    last = max(line.layer for line in keys)
    for kind in KINDS:
        found: dict[int, list[float]] = {}
        for line in sorted(keys, key=lambda k: k.step):
            if line.layer == last and line.kind == kind:
                found.setdefault(line.step, []).append(line.key_distance)
        axes.plot(list(found), [fmean(f) for f in found.values()], color=COLORS[kind], linewidth=1.2, label=_told(kind))
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"distance of keys, layer {last}")
    _finish(axes, "step")


def _stale_by_layer(axes: Axes, keys: Sequence[KeyDrift]) -> None:
    lines = between_refreshes(keys)
    for kind in KINDS:
        found: dict[int, list[KeyDrift]] = {}
        for line in sorted(lines, key=lambda k: k.layer):
            if line.kind == kind:
                found.setdefault(line.layer, []).append(line)
        for style, figures in (
            ("-", [fmean(k.key_distance for k in group) for group in found.values()]),
            (":", [fmean(k.value_distance for k in group) for group in found.values()]),
        ):
            label = _told(kind) if style == "-" else None
            axes.plot(list(found), figures, style, color=COLORS[kind], marker=".", linewidth=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("keys (line), values (dots)")
    _finish(axes, "layer; mean over the steps that are no refresh")


def _finish(axes: Axes, below: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    axes.set_xlabel(below, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7, loc="best")


def _told(kind: str) -> str:
    return kind.replace("_", " ")
