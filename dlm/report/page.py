"""The files of a report, each whole; one of them is a page with all of it: no request leaves it, pictures and script
are inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlm import __version__
from dlm.errors import StorageError
from dlm.files import write_whole
from dlm.pages import rendered
from dlm.report import tables
from dlm.report.figures import Row
from dlm.report.pairs import PairLine
from dlm.report.pictures import Picture, draw_all
from dlm.report.summary import BestPerSample, Summary
from dlm.report.tables import DASH, Sheet, between, number, share
from dlm.words import counted

FILTER_FROM = 12  # lines of a table that gets a filter
MEANINGS = (
    ("score", "mean over answers, with its 95 % interval: Wilson's for right or wrong, a bootstrap otherwise"),
    (
        "tokens / forward",
        "tokens before the first end token / forwards until the last of them was fixed; mean of ratios",
    ),
    ("canvas / forward", "positions / forwards, padding included: the figure of most papers"),
    ("forwards", "evaluations of the model for one answer; a guidance pair counts 2"),
    ("latency", "seconds of an answer; rows of a batch share its time equally"),
    ("Kendall", "tau-b of step and position over the content: 1 left to right, -1 right to left"),
    ("AR-ness", "share of tokens that were the leftmost open position when their step began"),
    ("left to right", "share of tokens that left nothing open on their left when their step ended"),
)
POINT_HEADS = (
    "task", "method", "setting", "status", "answers", "score %", "95 %", "strict %", "tokens / forward",
    "canvas / forward", "forwards", "p95", "token-forwards", "tokens / s", "latency p50, s", "p95, s", "prompt tokens",
    "Kendall", "AR-ness %", "left to right %", "errors",
)  # fmt: skip


def page(summary: Summary, sheets: Sequence[Sheet], pictures: Sequence[Picture]) -> str:
    """The whole page as HTML."""
    named = [(f"t{i}", sheet) for i, sheet in enumerate(sheets)] + [("points", _points(summary))]
    odd = sum(_status(f.row) != "done" for f in summary.figures)
    told = f"{counted(len(summary.figures), 'point')} of {counted(len(summary.methods), 'method')}"
    told += (
        f" on {counted(len(summary.tasks), 'task')}, {counted(sum(f.row.answers for f in summary.figures), 'answer')}"
    )
    told += f"; {odd} not whole (marked)" if odd else ""
    # What was measured first, then its pictures, then the rest of the tables.
    return rendered(
        "dlm.report", "page.html", first=named[:2], pictures=pictures, rest=named[2:], told=told, meanings=MEANINGS,
        filter_from=FILTER_FROM, version=__version__,
    )  # fmt: skip


def _points(summary: Summary) -> Sheet:
    """Every point with its main figures; all of them are in points.csv."""
    rows = []
    for r in (f.row for f in summary.figures):
        rows.append(
            (
                r.task, r.method, r.setting or DASH, _status(r), str(r.samples), share(r.score),
                between(r.score_low, r.score_high), share(r.score_strict), number(r.tokens_per_forward),
                number(r.canvas_tokens_per_forward), number(r.forwards, 1), number(r.forwards_p95, 0),
                number(r.token_forwards, 0), number(r.tokens_per_second, 0), number(r.seconds_p50, 3),
                number(r.seconds_p95, 3), number(r.prompt_tokens, 0), number(r.kendall), share(r.ar_ness),
                share(r.left_to_right), r.errors,
            )
        )  # fmt: skip
    return Sheet("all points", POINT_HEADS, rows, 4, "more figures of each are in points.csv")


def _status(row: Row) -> str:
    return row.status if row.compared or not row.samples else f"{row.status}, other questions"


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
