"""A report as text: tables for the terminal, CSV, Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dlm.report.pairs import PairLine
from dlm.report.plots_points import pareto_front
from dlm.report.summary import Mean, Standing, Summary
from dlm.words import counted, visible

LONGEST = 60  # lines of a table in the terminal; of more only the front is shown
MOST = 300  # points that are listed one by one in the files
DASH = "-"
OTHERS = "other questions: answered too few of those the other settings answered, so that it is compared with none"


@dataclass(frozen=True)
class Sheet:
    """A table before it is laid out."""

    title: str  # one line
    heads: tuple[str, ...]  # column headings
    rows: Sequence[tuple[str, ...]]  # texts, one per column
    names: int = 1  # how many columns from the left hold names (the others hold numbers)
    note: str = ""  # one line below it


def sheets_of(summary: Summary, pairs: Sequence[PairLine] = (), longest: int | None = None) -> list[Sheet]:
    """The tables of a report; ``longest`` shortens the one of settings to its front where it is longer."""
    sheets = [_settings(summary, longest)]
    if len(summary.tasks) > 1 and len(summary.figures) <= (longest or MOST):
        sheets.append(_points(summary))
    sheets.append(_methods(summary))
    if any(o.samples for o in summary.best) and (longest is None or len(summary.best) <= longest // 2):
        sheets.append(_best_per_sample(summary))
    if len(summary.tasks) > 1 or any(m.order == m.order for m in summary.mapped):
        sheets.append(_tasks(summary))
    if pairs:
        sheets.append(_pairs(pairs))
    if (partial := _partial(summary)).rows:
        sheets.append(partial)
    if (marked := _marked(summary)).rows:
        sheets.append(marked)
    return sheets


def marks(mean: Mean) -> str:
    """What is odd about a setting's points."""
    return ", ".join([mean.marks] * bool(mean.marks) + [f"{len(mean.apart)} other questions"] * bool(mean.apart))


def front_of(means: Sequence[Mean]) -> list[Mean]:
    """Complete settings that no other beats in both tokens per forward and score, by rising speed."""
    whole = [m for m in means if m.complete]
    return [whole[i] for i in pareto_front([(m.tokens_per_forward, m.score) for m in whole])]


def _settings(summary: Summary, longest: int | None) -> Sheet:
    """Every setting over all tasks."""
    front = {(m.method, m.setting) for m in front_of(summary.means)}
    shown = summary.means
    note = "* on the Pareto front of score and tokens per forward"
    if longest is not None and len(shown) > longest:
        shown = [m for m in shown if (m.method, m.setting) in front]
        note += f"; {counted(len(summary.means) - len(shown), 'setting')} off the front: see settings.csv"
    elif any(not m.complete for m in shown):
        note += "; no mean is taken where a task is missing"
    if any(m.apart for m in summary.means):
        note += f"; {OTHERS}"
    n = len(summary.tasks)
    rows = [
        (
            m.method + ("*" if (m.method, m.setting) in front else ""), m.setting or DASH, f"{m.tasks}/{n}",
            share(m.score), between(m.score_low, m.score_high), str(m.questions), number(m.tokens_per_forward),
            number(m.canvas_tokens_per_forward), number(m.forwards, 1), number(m.tokens_per_second, 0), marks(m),
        )
        for m in shown
    ]  # fmt: skip
    title = f"mean over {n} tasks" if n > 1 else summary.tasks[0]
    heads = (
        "method", "setting", "tasks", "score %", "95 %", "questions", "tokens / forward", "canvas / forward",
        "forwards", "tokens / s", "marks",
    )  # fmt: skip
    return Sheet(title, heads, rows, 2, note)


def _points(summary: Summary) -> Sheet:
    """Every task by itself."""
    rows = [
        (
            r.task, r.method, r.setting or DASH, str(r.samples), share(r.score), between(r.score_low, r.score_high),
            number(r.tokens_per_forward), number(r.canvas_tokens_per_forward), number(r.forwards, 1),
            number(r.tokens_per_second, 0),
        )
        for task in summary.tasks
        for r in (f.row for f in summary.figures if f.row.task == task)
    ]  # fmt: skip
    heads = (
        "task", "method", "setting", "answers", "score %", "95 %", "tokens / forward", "canvas / forward", "forwards",
        "tokens / s",
    )  # fmt: skip
    return Sheet("task by task", heads, rows, 3)


def _methods(summary: Summary) -> Sheet:
    """Every method over its settings."""
    upstream = summary.options.rule == "upstream"
    kinds = ("",) if upstream else (" measured", " between")
    heads = (
        "method", "kind", "settings", "best score %", "at tokens / forward", "area %", "AUP",
        *(f"PB{x:g}{kind}" for x in summary.options.x for kind in kinds), "oracle score %", "oracle tokens / forward",
    )  # fmt: skip
    rows = []
    for s in summary.standings:
        pbx = [number(v) for x in summary.options.x for v in s.pbx.get(x, (float("nan"),) * len(kinds))]
        rows.append((s.method, s.kind, f"{s.complete}/{s.settings}", share(s.best), number(s.best_speed),
                     share(s.area), number(s.aup, 1), *pbx, share(s.oracle_score), number(s.oracle_speed)))  # fmt: skip
    low, high = summary.range
    speed = "canvas tokens per forward" if upstream else "tokens per forward"
    note = (
        f"area: mean score over log2 of {speed} from {low:.3g} to {high:.3g}; PBx: largest {speed} at a mean score of"
        " x % or more, 0 where it is never reached; AUP: accuracy under parallelism (d3LLM)"
    )
    return Sheet("methods", heads, rows, 2, note + (" (published rule)" if upstream else ""))


def _best_per_sample(summary: Summary) -> Sheet:
    rows = [
        (
            o.method, o.task, o.best_setting or DASH, share(o.best_score), share(o.score), number(o.forwards, 1),
            number(o.tokens_per_forward), str(o.settings), str(o.samples),
        )
        for o in summary.best
    ]  # fmt: skip
    heads = (
        "method", "task", "best setting", "its score %", "oracle score %", "forwards", "tokens / forward", "settings",
        "samples",
    )  # fmt: skip
    note = "for every sample the best score of any setting, and of those the fewest forwards"
    return Sheet("oracle over settings", heads, rows, 3, note)


def _tasks(summary: Summary) -> Sheet:
    rows = [(m.task, number(m.parallelisability), number(m.order, 1)) for m in summary.mapped]
    first = summary.mapped[0]
    note = (
        f"parallelisability: sum of k x score / sum of scores over the settings of {first.method}, lower is harder;"
        " order: points of score per doubling of the block length"
        + (f" ({first.order_method})" if first.order_method else " (not swept)")
        + ", positive: large blocks are better"
    )
    return Sheet("tasks", ("task", "parallelisability", "order"), rows, 1, note)


def _pairs(pairs: Sequence[PairLine]) -> Sheet:
    rows = []
    for line in pairs:
        t = line.test
        alone = [DASH if n is None else str(n) for n in (t.only_a, t.only_b)]
        rows.append(
            (
                line.task, str(t.n), share(t.a), share(t.b), f"{100 * t.difference:+.1f}",
                f"{100 * t.low:+.1f} to {100 * t.high:+.1f}", *alone, f"{t.p:.2g}", t.test,
                number(t.forwards_a, 1), number(t.forwards_b, 1),
            )
        )  # fmt: skip
    heads = (
        "task", "answers", "A %", "B %", "B - A", "95 %", "only A", "only B", "p", "test", "forwards A", "forwards B",
    )  # fmt: skip
    note = "the same questions and seeds in both; p: McNemar's exact test, or a paired bootstrap over questions"
    if left_out := sum(line.left_out for line in pairs if line.task != "all"):
        note += f"; {counted(left_out, 'answer')} of one alone left out"
    return Sheet(f"A: {pairs[0].a} - B: {pairs[0].b}", heads, rows, 1, note)


def _partial(summary: Summary) -> Sheet:
    """Settings that some task lacks."""
    rows = [(m.method, m.setting or DASH, ", ".join(m.missing)) for m in summary.means if m.missing]
    return Sheet("not measured on every task", ("method", "setting", "missing"), rows, 3, "no mean over tasks is taken")


def _marked(summary: Summary) -> Sheet:
    """Points that are not what was asked for."""
    rows = []
    for f in summary.figures:
        r = f.row
        told = [r.status] * (r.status != "done") + ["torn last line"] * bool(f.result.torn)
        told += [] if r.compared or not r.samples else ["other questions"]
        told += [f"compared on {r.samples}"] if r.samples < r.answers else []
        if told:
            asked = DASH if r.asked is None else str(r.asked)
            rows.append(
                (r.task, f"{r.method} {r.setting}".strip(), ", ".join(told), str(r.answers), asked, str(r.failures))
            )
    heads = ("task", "method", "mark", "answers", "asked", "failed")
    note = "figures are over the answers to the questions that a task's points have in common"
    return Sheet("points that are not whole", heads, rows, 3, f"{note}; {OTHERS}")


def share(value: float) -> str:
    """A share as percent with one digit."""
    return DASH if value != value else f"{100 * value:.1f}"


def number(value: float, digits: int = 2) -> str:
    """A figure; a dash where there is none."""
    return DASH if value != value else f"{value:.{digits}f}"


def between(low: float, high: float) -> str:
    """Two shares as ``63-80``."""
    return DASH if low != low else f"{100 * low:.0f}-{100 * high:.0f}"


def fitting(sheet: Sheet, width: int) -> list[Sheet]:
    """A sheet as one or more that fit into ``width`` characters: the columns of names stand in each, those of numbers
    are dealt out in order. A table is never wider than its cells need, and no number is broken."""
    columns = list(zip(sheet.heads, *sheet.rows, strict=True))
    wide = [max(len(visible(c)) for c in [*_words(column[0]), *column[1:]]) + 2 for column in columns]
    # Names may be folded, down to half of the terminal for all of them.
    named = min(sum(wide[: sheet.names]), width // 2)
    dealt: list[list[int]] = []
    left = 0
    for place in range(sheet.names, len(columns)):
        if wide[place] > left or not dealt:
            dealt.append([])
            left = width - named - 2
        dealt[-1].append(place)
        left -= wide[place]
    if len(dealt) < 2:
        return [sheet]
    parts = []
    for number, own in enumerate(dealt):
        places = [*range(sheet.names), *own]
        rows = [tuple(row[i] for i in places) for row in sheet.rows]
        heads = tuple(sheet.heads[i] for i in places)
        last = number == len(dealt) - 1
        title = f"{sheet.title} ({number + 1} of {len(dealt)})"
        parts.append(replace(sheet, title=title, heads=heads, rows=rows, note=sheet.note if last else ""))
    return parts


def _words(head: str) -> list[str]:
    """The pieces of a heading that stand one below the other."""
    return head.replace(" / ", "/ ").split()


def rich_table(sheet: Sheet) -> Table:
    """A sheet for the terminal."""
    table = Table(
        title=Text(visible(sheet.title)),
        title_style="bold",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    if sheet.note:
        table.caption, table.caption_justify = Text(visible(sheet.note)), "left"
    for i, head in enumerate(sheet.heads):
        if i < sheet.names:
            table.add_column(Text(head), overflow="fold", min_width=6)
        else:
            table.add_column(Text(head.replace(" / ", "/\n").replace(" ", "\n")), justify="right", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def markdown(sheets: Iterable[Sheet], pictures: Sequence[tuple[str, str]] = ()) -> str:
    """Sheets, then pictures as (title, file), as a Markdown page."""
    parts = ["# Report\n"]
    for sheet in sheets:
        lines = [f"## {_plain_text(sheet.title)}\n", _line(sheet.heads)]
        lines.append("|" + "|".join("---" if i < sheet.names else "---:" for i in range(len(sheet.heads))) + "|")
        lines += [_line(row) for row in sheet.rows]
        parts.append("\n".join(lines) + (f"\n\n{_plain_text(sheet.note)}\n" if sheet.note else "\n"))
    titled = [(_plain_text(title), file) for title, file in pictures]
    parts += [f"## {title}\n\n![{title}]({file})\n" for title, file in titled]
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain_text, cells)) + " |"


def _plain_text(text: str) -> str:
    """A text that Markdown and the HTML inside it leave as it is."""
    text = visible(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|*`\\\[\]])", r"\\\1", text)


def columns_of(record: type[Any]) -> list[str]:
    """The columns of records of a dataclass, also where there are none."""
    return [f.name for f in fields(record)]


def csv_of(rows: Sequence[Any], heads: Sequence[str] | None = None) -> str:
    """Records (all of one dataclass) or tuples under ``heads`` as CSV; NaN and None are empty cells."""
    names = list(heads) if heads is not None else columns_of(type(rows[0])) if rows else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names] if is_dataclass(row) else row
        writer.writerow([_cell(value) for value in values])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "; ".join(value) if isinstance(value, tuple) else value


def standing_lines(summary: Summary) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Heads and rows of ``methods.csv``: a column per x and kind of PBx."""
    plain = [f.name for f in fields(Standing) if f.name != "pbx"]
    upstream = summary.options.rule == "upstream"
    kinds = ("upstream",) if upstream else ("measured", "interpolated")
    heads = [*plain, *(f"pb{x:g}_{kind}" for x in summary.options.x for kind in kinds)]
    rows = []
    for s in summary.standings:
        pbx = [v for x in summary.options.x for v in s.pbx.get(x, (float("nan"),) * len(kinds))]
        rows.append((*(getattr(s, name) for name in plain), *pbx))
    return heads, rows


def as_json(summary: Summary, pairs: Sequence[PairLine] = ()) -> str:
    """Everything as one JSON object; what is undefined is null."""
    heads, rows = standing_lines(summary)
    values = {
        "rule": summary.options.rule,
        "area_range": summary.range,
        "points": [asdict(f.row) for f in summary.figures],
        "settings": [asdict(m) for m in summary.means],
        "methods": [dict(zip(heads, row, strict=True)) for row in rows],
        "oracle": [asdict(o) for o in summary.best],
        "tasks": [asdict(m) for m in summary.mapped],
        "pairs": [{"a": p.a, "b": p.b, "task": p.task, **asdict(p.test)} for p in pairs],
    }
    return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
