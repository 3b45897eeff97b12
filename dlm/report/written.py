"""The files of a report, each whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlm.errors import StorageError
from dlm.files import write_whole
from dlm.report import tables
from dlm.report.page import page
from dlm.report.pairs import PairLine
from dlm.report.summary import BestPerSample, Summary


def write_report(
    summary: Summary, pairs: Sequence[PairLine], out: Path, drawn_from: Sequence[Path] | None = None
) -> None:
    """Write tables, page and pictures.

    Args:
        out: the folder; made where it is not there.
        drawn_from: folders of the results, for the pictures; None: there are none.

    Raises:
        StorageError: the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        pictures = []
        if drawn_from is not None:
            from dlm.report.pictures import draw_all

            pictures = draw_all(summary, drawn_from, out)
        heads, rows = tables.standing_lines(summary)
        sheets = tables.sheets_of(summary, pairs)
        for name, text in (
            ("points.csv", tables.csv_of([f.row for f in summary.figures])),
            ("settings.csv", tables.csv_of(summary.means)),
            ("methods.csv", tables.csv_of(rows, heads)),
            ("oracle.csv", tables.csv_of(summary.best, tables.columns_of(BestPerSample))),
            ("tasks.csv", tables.csv_of(summary.mapped)),
            ("report.md", tables.markdown(sheets, [(p.title, p.file) for p in pictures])),
            ("report.html", page(summary, sheets, pictures)),
        ):
            write_whole(out / name, text)
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror}): give another out=") from error
