"""One page with all of a report: no request leaves it, pictures and script are inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from dlm import __version__
from dlm.report.plots import Picture
from dlm.report.summary import Summary
from dlm.report.tables import DASH, Sheet, between, number, share

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
BREAK = "/\u200b"  # a heading may be broken behind the stroke
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
    parts = [_section(f"t{i}", sheet) for i, sheet in enumerate(sheets)]
    # What was measured first, then its pictures, then the rest of the tables.
    shown = [*parts[:2], *(_figure(picture) for picture in pictures), *parts[2:], _section("points", _points(summary))]
    links = [("t0", sheets[0].title), ("t1", sheets[1].title)]
    links += [(f"p-{pictures[0].name}", "pictures")] if pictures else []
    links += [(f"t{i}", sheet.title) for i, sheet in enumerate(sheets) if i > 1] + [("points", "all points")]
    navigation = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in links)
    style, script = (files("dlm.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    meanings = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in MEANINGS)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>dlm report</title>
<style>{style}</style>
</head>
<body>
<header><h1>dlm report</h1><p class="faint">{escape(_told(summary))}</p></header>
<nav aria-label="sections"><div>{navigation}<button id="theme" type="button">light / dark</button></div></nav>
<main>
{"".join(shown)}
<section><h2>What the figures mean</h2><dl>{meanings}</dl></section>
<footer class="faint">Written by dlm {escape(__version__)}.</footer>
</main>
<script>{script}</script>
</body>
</html>
"""


def _told(summary: Summary) -> str:
    answers = sum(f.row.samples for f in summary.figures)
    odd = sum(f.row.status != "done" for f in summary.figures)
    told = f"{_count(len(summary.figures), 'point')} of {_count(len(summary.methods), 'method')}"
    told += f" on {_count(len(summary.tasks), 'task')}, {answers:,} answers"
    return told + (f"; {odd} not whole (marked)" if odd else "")


def _count(n: int, name: str) -> str:
    return f"{n} {name}" if n == 1 else f"{n} {name}s"


def _section(name: str, sheet: Sheet) -> str:
    told = f'placeholder="filter" aria-label="filter {escape(sheet.title)}"'
    search = f'<input type="search" data-filters="{name}-table" {told}>' if len(sheet.rows) >= FILTER_FROM else ""
    heads = "".join(
        f'<th scope="col"{_kind(i, sheet)}><button type="button">{escape(head.replace(" / ", BREAK))}</button></th>'
        for i, head in enumerate(sheet.heads)
    )
    body = "".join(_row(row, sheet) for row in sheet.rows)
    note = f'<p class="note">{escape(sheet.note)}</p>' if sheet.note else ""
    return (
        f'<section id="{name}"><h2>{escape(sheet.title)}</h2>{search}<div class="wide" tabindex="0">'
        f'<table id="{name}-table"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>{note}</section>\n'
    )


def _row(row: Sequence[str], sheet: Sheet) -> str:
    marked = any(word in cell for cell in row for word in ("unfinished", "failures"))
    cells = "".join(f"<td{_kind(i, sheet)}>{escape(cell)}</td>" for i, cell in enumerate(row))
    return f"<tr{' class=marked' if marked else ''}>{cells}</tr>"


def _kind(column: int, sheet: Sheet) -> str:
    last = column == len(sheet.heads) - 1 and sheet.heads[column] in ("errors", "marks")
    return "" if column < sheet.names or last else ' class="number"'


def _figure(picture: Picture) -> str:
    return (
        f'<section id="p-{picture.name}"><h2>{escape(picture.title)}</h2>'
        f'<figure role="img" aria-label="{escape(picture.title)}">{picture.svg}</figure></section>\n'
    )


def _points(summary: Summary) -> Sheet:
    """Every point with its main figures; all of them are in points.csv."""
    rows = []
    for r in (f.row for f in summary.figures):
        rows.append(
            (
                r.task, r.method, r.setting or DASH, r.status, str(r.samples), share(r.score),
                between(r.score_low, r.score_high), share(r.score_strict), number(r.tokens_per_forward),
                number(r.canvas_tokens_per_forward), number(r.forwards, 1), number(r.forwards_p95, 0),
                number(r.token_forwards, 0), number(r.tokens_per_second, 0), number(r.seconds_p50, 3),
                number(r.seconds_p95, 3), number(r.prompt_tokens, 0), number(r.kendall), share(r.ar_ness),
                share(r.left_to_right), r.errors,
            )
        )  # fmt: skip
    return Sheet("all points", POINT_HEADS, rows, 4, "more figures of each are in points.csv")
