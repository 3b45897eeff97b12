"""How every bench shows its figures: a table from columns, and the few ways a number is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dlm.bench.engine import Measured


class Column(NamedTuple):
    """A column."""

    heading: str  # its lines
    cell: str | Callable[[Any], str]  # name of a figure, or what stands in the column for a line's figures
    form: str = ""  # how the figure is formatted; a dash stands for one that there is none of
    words: bool = False  # whether it holds words, which stand on the left, and not numbers
    width: int | None = None  # least width of words that may be wrapped; None: nothing is wrapped

    def text(self, line: Any) -> str:
        """The cell of a line."""
        if callable(self.cell):
            return self.cell(line)
        value = getattr(line, self.cell)
        return "-" if value is None else format(value, self.form)


def table(title: str, caption: str, columns: Sequence[Column], lines: Iterable[Any], grouped: bool = False) -> Table:
    """A line per entry of ``lines``. Where they are ``grouped`` the first cell is left empty below an equal one."""
    # Tables fit into a terminal of 80 when nothing is spent on padding.
    shown = Table(
        title=Text(title), title_style="bold", title_justify="left", caption=caption, caption_justify="left",
        box=SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    for column in columns:
        justify: Any = "left" if column.words else "right"
        shown.add_column(column.heading, justify=justify, no_wrap=column.width is None, min_width=column.width)
    above = None
    for line in lines:
        first, *rest = [column.text(line) for column in columns]
        shown.add_row(*map(Text, ["" if grouped and first == above else first, *rest]))
        above = first
    return shown


def short(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(figures: Measured) -> str:
    """Least and most ratio over the rounds; a dash where there was one round."""
    least, most = figures.ratio_least, figures.ratio_most
    return f"{least:.2f}-{most:.2f}" if least < most else "-"


def brief(label: str) -> str:
    """``threshold:threshold=0.9`` as ``threshold:0.9``."""
    name, colon, settings = label.partition(":")
    return name + colon + re.sub(r"\b[a-z_.]+=", "", settings)
