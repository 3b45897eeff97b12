"""Score against tokens per forward, one picture per task. Matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import cos, pi, sin
from pathlib import Path
from typing import TYPE_CHECKING

from dlm.errors import SettingsError
from dlm.evaluation.compare import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

DPI = 150
MARK = 7.0  # half the side of the square around a point that labels keep clear, pixels
NEAR = 30.0  # a label farther away than this gets a line to its point, pixels
RADII = tuple(range(12, 300, 16))
ANGLES = tuple(2 * pi * i / 16 for i in range(16))
FRONT, REST = "tab:red", "tab:blue"


def check_matplotlib() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        SettingsError: it is not installed; the message says how to install it.
    """
    if find_spec("matplotlib") is None:
        raise SettingsError("the pictures need matplotlib: pip install 'dlm[plot]' (or pictures=false)")


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points no other point beats: none is as large in both coordinates and larger in one.

    They come by rising first coordinate; equal points are all on the front or all off it.
    """

    def beaten(p: Point) -> bool:
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)

    return sorted((i for i, p in enumerate(points) if not beaten(p)), key=lambda i: (points[i][0], -points[i][1]))


def draw(lines: Sequence[Line], path: Path) -> None:
    """Write the picture of one task's lines (at least one) as PNG; the file appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A logarithmic axis has no 0: a sampler without any answer stands at the left edge.
    floor = min((x for line in lines if (x := line.tokens_per_forward) > 0), default=1.0) / 2
    points = [(max(line.tokens_per_forward, floor), 100 * line.accuracy) for line in lines]
    figure = Figure(figsize=(9.0, 6.0 + 0.08 * max(0, len(lines) - 12)), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.09, 0.89, 0.84))
    _frame(axes, lines, points)
    front = pareto_front(points)
    rest = [i for i in range(len(points)) if i not in front]
    for (x, y), line in zip(points, lines, strict=True):
        axes.plot([x, x], [100 * line.accuracy_low, 100 * line.accuracy_high], color="0.85", linewidth=1.0, zorder=1)
    axes.plot(*zip(*(points[i] for i in front), strict=True), color=FRONT, linewidth=1.0, zorder=2)
    axes.scatter(*zip(*(points[i] for i in front), strict=True), color=FRONT, s=30, label="Pareto front", zorder=4)
    if rest:
        axes.scatter(*zip(*(points[i] for i in rest), strict=True), color=REST, s=18, label="others", zorder=3)
    axes.legend(loc="lower left", fontsize=8)
    _label(figure, axes, points, [line.sampler for line in lines])
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png")
    partial.replace(path)


def _frame(axes: Axes, lines: Sequence[Line], points: Sequence[Point]) -> None:
    """Axes, ticks and title; everything that moves a point on the paper, so before labels are placed."""
    xs = [x for x, _ in points]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(xs) / 1.6, max(xs) * 1.6)
    axes.set_ylim(-6, 106)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    axes.set_xlabel("tokens per forward (logarithmic)")
    axes.set_ylabel("right answers, %")
    axes.set_title(f"{lines[0].task}: {lines[0].n} held-out questions, 95 % intervals", fontsize=10)


def _label(figure: Figure, axes: Axes, points: Sequence[Point], names: Sequence[str]) -> None:
    """Put every name beside its point where it covers neither another name nor a point."""
    spots: list[Point] = [tuple(axes.transData.transform(point)) for point in points]
    left, bottom, right, top = axes.get_window_extent().extents
    legend = axes.get_legend()
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in spots]
    if legend is not None:
        taken.append(tuple(legend.get_window_extent().extents))
    for point, spot, name in zip(points, spots, names, strict=True):
        text = axes.annotate(name, point, xytext=(0, 0), textcoords="offset pixels", fontsize=7.5, zorder=5)
        text.set_parse_math(False)
        extent = text.get_window_extent()
        box = place(spot, (extent.width, extent.height), taken, (left, bottom, right, top))
        taken.append(box)
        text.set_position((box[0] - spot[0], box[1] - spot[1]))
        text.set_verticalalignment("bottom")
        end = (min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3]))
        offset = (end[0] - spot[0], end[1] - spot[1])
        if abs(offset[0]) + abs(offset[1]) > NEAR:
            line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", point, xytext=offset, textcoords="offset pixels", arrowprops=line, zorder=2)


def place(spot: Point, size: Point, taken: Sequence[Box], frame: Box) -> Box:
    """The nearest box of ``size`` around ``spot`` inside ``frame`` that meets no taken one; else the least covered.

    All lengths in pixels.
    """
    best: tuple[float, Box] | None = None
    for radius in RADII:
        for angle in ANGLES:
            x = spot[0] + cos(angle) * (radius + size[0] / 2) - size[0] / 2
            y = spot[1] + sin(angle) * (radius + size[1] / 2) - size[1] / 2
            box = (x, y, x + size[0], y + size[1])
            inside = (max(x, frame[0]), max(y, frame[1]), min(box[2], frame[2]), min(box[3], frame[3]))
            covered = size[0] * size[1] - _overlap(box, inside) + sum(_overlap(box, other) for other in taken)
            if covered < 1e-6:
                return box
            if best is None or covered < best[0]:
                best = (covered, box)
    assert best is not None
    return best[1]


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
