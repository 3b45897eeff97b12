"""What the pictures of a report have in common: colours, panels, axes, legends.

Matplotlib is imported when they are drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision can tell apart, without the yellow that is lost on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
OTHERS = "#9aa3ad"
INK, LINE = "#1b1f24", "#dfe3e8"  # the page replaces these two by its own in light and dark
DPI = 110
Layout = Literal["constrained"]
COLUMNS = 4  # panels side by side
TITLE = 38  # letters over a panel
MAP = "cividis"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9.0, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "axes.titlesize": 9.5, "text.parse_math": False,
    "svg.hashsalt": "dlm",
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A figure and what is behind it: CSV heads and rows."""

    title: str
    figure: Figure
    heads: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Style:
    """How a method looks."""

    color: str
    marker: str
    order: int

    @property
    def strong(self) -> bool:
        """Whether it has a colour of its own."""
        return self.color != OTHERS


def styles_of(methods: Iterable[str]) -> dict[str, Style]:
    """Colours for the first few; the others are grey."""
    styles = {}
    for i, method in enumerate(dict.fromkeys(methods)):
        inside = i < len(COLORS)
        styles[method] = Style(COLORS[i] if inside else OTHERS, MARKERS[i] if inside else ".", 4 if inside else 2)
    return styles


def new_figure(width: float, height: float, layout: Layout | None = "constrained", dpi: int = DPI) -> Figure:
    """An empty figure, inches; no window system is asked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def panels(
    count: int, height: float = 1.75, room: float = 0.0, legend: bool = True, one_scale: bool = True
) -> tuple[Figure, list[Axes]]:
    """``count`` panels in rows of at most four, ``height`` inches each.

    Places are counted out: to let matplotlib find them takes seconds where there are many.

    Args:
        room: inches to keep free on the right.
        legend: keep room for one above.
        one_scale: all panels have the same vertical scale, which then stands on the left alone.
    """
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    across, gap, between, left, bottom, top = 2.3, 0.45, 0.65, 0.65, 0.55, 0.9 if legend else 0.48
    width = max(5.0, left + columns * across + (columns - 1) * gap + 0.15 + room)
    whole = bottom + rows * height + (rows - 1) * between + top
    figure = new_figure(width, whole, layout=None)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=left / width, right=1 - (0.15 + room) / width, bottom=bottom / whole, top=1 - top / whole,
        wspace=gap / across, hspace=between / height,
    )  # fmt: skip
    flat = [axes for line in grid for axes in line]
    for axes in flat[count:]:
        axes.set_axis_off()
    for i, axes in enumerate(flat if one_scale else ()):
        axes.tick_params(labelleft=i % columns == 0)
    return figure, flat[:count]


def name_panel(axes: Axes, name: str) -> None:
    """The title of a panel, on two lines where it is long."""
    lines = textwrap.wrap(name, TITLE)
    if len(lines) > 2:
        lines = [lines[0], f"... {lines[-1]}"]
    axes.set_title("\n".join(lines), fontsize=8.5)


def name_axes(figure: Figure, below: str, beside: str) -> None:
    """One name for all horizontal axes and one for all vertical ones."""
    width, height = figure.get_size_inches()
    figure.text(0.5, 0.1 / height, below, ha="center", va="bottom", fontsize=9.5)
    figure.text(0.08 / width, 0.5, beside, ha="left", va="center", rotation=90, fontsize=9.5)


def log_speed(axes: Axes) -> None:
    """Tokens per forward on a logarithmic axis to base 2."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def legend(figure: Figure, styles: dict[str, Style], line: Literal["-", ""] = "-") -> None:
    """One legend above all panels; grey methods share a line of it."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=style.color, marker=style.marker, linestyle=line, markersize=5, linewidth=1.2, label=name)
        for name, style in styles.items()
        if style.strong
    ]
    if rest := sum(not style.strong for style in styles.values()):
        handles.append(Line2D([], [], color=OTHERS, marker=".", linestyle=line, linewidth=0.8, label=f"{rest} others"))
    place: Literal["upper center", "outside upper center"]
    place = "upper center" if figure.get_layout_engine() is None else "outside upper center"
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_size_inches()[0] / (0.55 + 0.075 * longest))))
    figure.legend(handles=handles, loc=place, ncols=columns, fontsize=8.5)
