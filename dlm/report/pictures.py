"""All pictures of a report: each as PNG and SVG, with the figures behind it as CSV.

Matplotlib is imported when they are drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlm.files import whole, write_whole
from dlm.report import plots_decoding, plots_speed, plots_tasks
from dlm.report.plots import DPI, INK, LINE, SETTINGS, Drawn
from dlm.report.summary import Summary
from dlm.report.tables import csv_of


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn."""

    name: str  # of its files, without ending
    title: str  # what it shows, one line
    svg: str  # the drawing, to be put into a page

    @property
    def file(self) -> str:
        """Its PNG."""
        return f"{self.name}.png"


def draw_all(summary: Summary, folders: Sequence[Path], out: Path) -> list[Picture]:
    """Draw every picture there are figures for; files appear whole or not at all.

    The curves of a ``closed_forms.csv`` (`dlm oracle out=DIR`) in one of ``folders`` are drawn with measured points.
    """
    import matplotlib

    forms = [form for folder in folders for form in plots_speed.read_forms(folder / "closed_forms.csv")]
    drawings: dict[str, Callable[[], Drawn | None]] = {
        "mean_front": lambda: plots_speed.mean_front(summary),
        "score_by_speed": lambda: plots_speed.score_by_speed(summary),
        "heat_map": lambda: plots_tasks.heat_map(summary),
        "block_length": lambda: plots_speed.block_length(summary),
        "task_map": lambda: plots_tasks.task_map(summary),
        "forwards": lambda: plots_decoding.forwards(summary),
        "decoding_order": lambda: plots_decoding.decoding_order(summary),
        "closed_forms": lambda: plots_speed.closed_forms(summary, forms),
    }
    pictures = []
    for name, draw in drawings.items():
        with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):
            if (drawn := draw()) is not None:
                pictures.append(_save(name, drawn, out))
    return pictures


def _save(name: str, drawn: Drawn, out: Path) -> Picture:
    """Write PNG, SVG and CSV."""
    with whole(out / f"{name}.png", sync=False) as partial:
        drawn.figure.savefig(partial, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    drawn.figure.set_layout_engine("none")  # all has its place by now; to find it again takes as long as to draw
    text = io.StringIO()
    drawn.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    write_whole(out / f"{name}.svg", svg)
    write_whole(out / f"{name}.csv", csv_of(drawn.rows, drawn.heads))
    return Picture(name, drawn.title, inline(name, svg))


def inline(name: str, svg: str) -> str:
    """An SVG for a page: no prolog, no fixed size, ids of its own, ink and lines in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    return svg.replace(INK, "currentColor").replace(LINE, "var(--line)")
