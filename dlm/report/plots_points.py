"""Score against tokens per forward, one picture per task. Matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import cos, hypot, pi, sin
from pathlib import Path
from typing import TYPE_CHECKING

from dlm.errors import SettingsError
from dlm.files import whole
from dlm.report.plots import new_figure
from dlm.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dlm.report.comparison import Line

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

DPI = 150
MARK = 7.0  # half the side of the square around a point that labels keep clear, pixels
NEAR = 14.0  # a label farther away than this gets a line to its point, pixels
FONT = 7.5  # points
GAP = 2.0  # free around a label, pixels
RADII = tuple(range(10, 400, 12))
ANGLES = tuple(2 * pi * i / 16 for i in range(16))
FRONT, REST = "tab:red", "tab:blue"


def check_matplotlib() -> None:
    """Refuse to go on without matplotlib. Raises SettingsError: it is not installed; the message says how to install
    it."""
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
    # A logarithmic axis has no 0: a sampler without any answer stands at the left edge.
    floor = min((x for line in lines if (x := line.tokens_per_forward) > 0), default=1.0) / 2
    points = [(max(line.tokens_per_forward, floor), 100 * line.accuracy) for line in lines]
    figure = new_figure(9.0, 6.0 + 0.08 * max(0, len(lines) - 12), None, DPI)
    axes = figure.add_axes((0.08, 0.09, 0.89, 0.84))
    _frame(axes, lines, points)
    front = pareto_front(points)
    rest = [i for i in range(len(points)) if i not in front]
    for point, line in zip(points, lines, strict=True):
        ends = [100 * line.accuracy_low, 100 * line.accuracy_high]
        axes.plot([point[0]] * 2, ends, color="0.85", linewidth=1.0, zorder=1)
    axes.plot([points[i][0] for i in front], [points[i][1] for i in front], color=FRONT, linewidth=1.0, zorder=2)
    for chosen, color, size, name in ((rest, REST, 18, "others"), (front, FRONT, 30, "Pareto front")):
        if chosen:
            axes.scatter([points[i][0] for i in chosen], [points[i][1] for i in chosen],
                         color=color, s=size, label=name, zorder=3)  # fmt: skip
    axes.legend(loc="lower left", fontsize=8)
    label_points(axes, points, [line.sampler for line in lines])
    with whole(path, sync=False) as partial:
        figure.savefig(partial, format="png")


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
    axes.set_title(f"{lines[0].task}: {counted(lines[0].n, 'held-out question')}, 95 % intervals", fontsize=10)


def label_points(axes: Axes, points: Sequence[Point], names: Sequence[str]) -> None:
    """Put the names beside their points where they cover neither other names nor points.

    Points that lie on one another share a label with a name a line.
    """
    spots: list[Point] = [(x, y) for x, y in axes.transData.transform(points)]
    left, bottom, right, top = axes.get_window_extent().extents
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in spots]
    if (legend := axes.get_legend()) is not None:
        x, y, x2, y2 = legend.get_window_extent().extents
        taken.append((x, y, x2, y2))
    for group in sorted(clusters(spots), key=len, reverse=True):  # what is large finds room while there is some
        point, spot = points[group[0]], spots[group[0]]
        text = axes.annotate(
            "\n".join(names[i] for i in group), point, xytext=(0, 0), textcoords="offset pixels", fontsize=FONT,
            linespacing=1.0, verticalalignment="bottom", zorder=5,
        )  # fmt: skip
        text.set_parse_math(False)
        extent = text.get_window_extent()
        box = place(spot, (extent.width + 2 * GAP, extent.height + 2 * GAP), taken, (left, bottom, right, top))
        taken.append(box)
        if len(group) > 1:  # a frame says that the names belong together, and to which line
            text.set_bbox({"boxstyle": f"square,pad={GAP / FONT / DPI * 72}", "fc": "white", "ec": "0.8", "lw": 0.6})
        text.set_position((box[0] + GAP - spot[0], box[1] + GAP - spot[1]))
        corner = _nearest(spot, box)
        end = (corner[0] - spot[0], corner[1] - spot[1])
        if hypot(*end) > NEAR:
            line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", point, xytext=end, textcoords="offset pixels", arrowprops=line, zorder=2)


def clusters(spots: Sequence[Point]) -> list[list[int]]:
    """Indices of the spots in groups: each spot joins the first group whose first spot is within half a mark."""
    groups: list[list[int]] = []
    for i, (x, y) in enumerate(spots):
        near = (g for g in groups if hypot(spots[g[0]][0] - x, spots[g[0]][1] - y) <= MARK / 2)
        if (group := next(near, None)) is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def place(spot: Point, size: Point, taken: Sequence[Box], frame: Box) -> Box:
    """The nearest box of ``size`` around ``spot`` inside ``frame`` that meets no taken one; else the least covered.

    The way from the spot to the box is clear of taken boxes too, those around the spot apart. All lengths in pixels.
    """
    obstacles = [box for box in taken if not _holds(box, spot)]
    best: tuple[float, Box] | None = None
    for radius in RADII:
        for angle in ANGLES:
            x = spot[0] + cos(angle) * (radius + size[0] / 2) - size[0] / 2
            y = spot[1] + sin(angle) * (radius + size[1] / 2) - size[1] / 2
            box = (x, y, x + size[0], y + size[1])
            inside = (max(x, frame[0]), max(y, frame[1]), min(box[2], frame[2]), min(box[3], frame[3]))
            covered = size[0] * size[1] - _overlap(box, inside) + sum(_overlap(box, other) for other in taken)
            if covered < 1e-6:
                end = _nearest(spot, box)
                way = [(spot[0] + t / 8 * (end[0] - spot[0]), spot[1] + t / 8 * (end[1] - spot[1])) for t in range(8)]
                if not any(_holds(other, point) for other in obstacles for point in way):
                    return box
            if best is None or covered < best[0]:
                best = (covered, box)
    assert best is not None
    return best[1]


def _nearest(spot: Point, box: Box) -> Point:
    """The point of a box nearest to a spot."""
    return min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3])


def _holds(box: Box, point: Point) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
