"""Pictures of score against speed and against block length."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dlm.errors import SettingsError
from dlm.report.plots import (
    INK,
    Drawn,
    Style,
    legend,
    log_speed,
    name_axes,
    name_panel,
    new_figure,
    panels,
    styles_of,
)
from dlm.report.summary import Summary, at_one_budget
from dlm.report.tables import front_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {"drawn": "-", "best": "--"}  # closed forms, by how tokens are chosen
Spot = tuple[float, float, float, float]  # tokens per forward or length, score, low, high


def curve(axes: Axes, spots: Sequence[Spot], style: Style, line: Literal["-", ""] = "-") -> None:
    """Points with their intervals, joined in rising order; scores come as shares."""
    spots = sorted(spots)
    xs = [x for x, *_ in spots]
    if style.strong:
        axes.vlines(xs, [100 * s[2] for s in spots], [100 * s[3] for s in spots], color=style.color, alpha=0.35, lw=1.2)
    axes.plot(
        xs, [100 * s[1] for s in spots], linestyle=line, color=style.color, marker=style.marker, zorder=style.order,
        markersize=4.0 if style.strong else 3.0, linewidth=1.2 if style.strong else 0.6,
    )  # fmt: skip


def score_by_speed(summary: Summary) -> Drawn | None:
    """A panel per task: score against tokens per forward, a line per method."""
    rows = [f.row for f in summary.compared if f.row.samples and f.row.tokens_per_forward > 0]
    if not rows:
        return None
    styles = styles_of(m for m in summary.methods if any(r.method == m for r in rows))
    figure, axes = panels(len(summary.tasks))
    for task, panel in zip(summary.tasks, axes, strict=True):
        for method, style in styles.items():
            own = [r for r in rows if (r.task, r.method) == (task, method)]
            if own:
                curve(panel, [(r.tokens_per_forward, r.score, r.score_low, r.score_high) for r in own], style)
        name_panel(panel, task)
        panel.set_ylim(-4, 104)
        log_speed(panel)
    name_axes(figure, "tokens per forward (logarithmic)", "score, %")
    legend(figure, styles)
    heads = ("task", "method", "setting", "tokens_per_forward", "score", "score_low", "score_high", "status")
    return Drawn("Score against tokens per forward, task by task (95 % intervals)", figure, heads, _values(rows, heads))


def _values(rows: Sequence[object], heads: Sequence[str]) -> list[tuple]:
    return [tuple(getattr(row, head) for head in heads) for row in rows]


def mean_front(summary: Summary) -> Drawn | None:
    """Mean over tasks against tokens per forward, the Pareto front, and where methods cross the scores of PBx."""
    whole = [m for m in summary.means if m.complete and m.tokens_per_forward > 0]
    if not whole:
        return None
    styles = styles_of(m for m in summary.methods if any(w.method == m for w in whole))
    figure = new_figure(8.6, 5.6)
    axes = figure.subplots()
    front = front_of(whole)
    axes.plot(
        [m.tokens_per_forward for m in front], [100 * m.score for m in front], color=INK, linewidth=5, alpha=0.13,
        zorder=1, solid_capstyle="round",
    )  # fmt: skip
    for method, style in styles.items():
        own = [m for m in whole if m.method == method]
        curve(axes, [(m.tokens_per_forward, m.score, m.score_low, m.score_high) for m in own], style)
    log_speed(axes)
    axes.set_ylim(-3, 103)
    if summary.options.rule == "ours":
        _crossings(axes, summary, styles)
    n = len(summary.tasks)
    axes.set_xlabel("tokens per forward (logarithmic)")
    axes.set_ylabel(f"mean score over {n} tasks, %" if n > 1 else f"score on {summary.tasks[0]}, %")
    legend(figure, styles)
    over = f"Mean over {n} tasks" if n > 1 else summary.tasks[0]
    marks = "; vertical marks: PBx, interpolated in tokens per forward" if summary.options.rule == "ours" else ""
    title = f"{over}: score against tokens per forward; shaded: Pareto front{marks}"
    heads = ("method", "setting", "tokens_per_forward", "score", "score_low", "score_high", "marks")
    rows = [(*values, mean in front) for values, mean in zip(_values(whole, heads), whole, strict=True)]
    return Drawn(title, figure, (*heads, "front"), rows)


def _crossings(axes: Axes, summary: Summary, styles: dict[str, Style]) -> None:
    """A dotted line at each score of PBx and a mark where a method is last above it."""
    left = axes.get_xlim()[0]
    for x in summary.options.x:
        axes.axhline(x, color=INK, linewidth=0.6, linestyle=":", alpha=0.6, zorder=1)
        axes.annotate(f"PB{x:g}", (left, x), xytext=(3, 2), textcoords="offset points", fontsize=7.5)
        for standing in summary.standings:
            style = styles.get(standing.method)
            if style is not None and style.strong and standing.pbx and (place := standing.pbx[x][-1]) > 0:
                axes.plot([place], [x], "|", color=style.color, markersize=13, markeredgewidth=2.0, zorder=5)
    axes.set_xlim(left=left)


def block_length(summary: Summary) -> Drawn | None:
    """A panel per task: score against block length, everything else held fixed."""
    lines = at_one_budget(summary.lengths)
    if not lines:
        return None
    tasks = sorted({line.task for line in lines})
    styles = styles_of(dict.fromkeys(line.method for line in lines))
    figure, axes = panels(len(tasks))
    for task, panel in zip(tasks, axes, strict=True):
        for line in (line for line in lines if line.task == task):
            curve(panel, line.points, styles[line.method])
        name_panel(panel, task)
        panel.set_ylim(-4, 104)
        log_speed(panel)
    name_axes(figure, "block length (logarithmic)", "score, %")
    legend(figure, styles)
    static = lines[0].kind == "static"
    at = f"at {lines[0].budget:.3g} tokens per step" if static else "within the same setting"
    rows = [(line.task, line.method, line.budget, *point) for line in lines for point in line.points]
    heads = ("task", "method", "tokens_per_step", "block_length", "score", "score_low", "score_high")
    return Drawn(f"Score against block length, {at}", figure, heads, rows)


def closed_forms(summary: Summary, forms: Sequence[Form]) -> Drawn | None:
    """A panel per task measured in infill form: its scores over the curves of the closed forms."""
    infill = [f for f in summary.figures if f.result.point.config.get("form") == "infill" and f.row.samples]
    names = {f.row.task: f.result.point.task for f in infill}
    tasks = [task for task in summary.tasks if any(form.task == names.get(task) for form in forms)]
    if not tasks:
        return None
    styles = styles_of(m for m in summary.methods if any(f.row.method == m and f.row.task in tasks for f in infill))
    figure, axes = panels(len(tasks))
    rows: list[tuple] = []
    for task, panel in zip(tasks, axes, strict=True):
        for decoding, dashes in LINES.items():
            exact = [form for form in forms if (form.task, form.decoding) == (names[task], decoding)]
            speeds, shares = [form.tokens_per_forward for form in exact], [form.accuracy for form in exact]
            panel.plot(speeds, [100 * share for share in shares], dashes, color=INK, linewidth=1.4, zorder=1)
            rows += [(task, f"closed form, {decoding}", x, a, a, a) for x, a in zip(speeds, shares, strict=True)]
        for method, style in styles.items():
            own = [f.row for f in infill if (f.row.task, f.row.method) == (task, method)]
            spots = [(r.tokens_per_forward, r.score, r.score_low, r.score_high) for r in own]
            if spots:
                curve(panel, spots, style, "")
                rows += [(task, method, *spot) for spot in spots]
        name_panel(panel, task)
        panel.set_ylim(-4, 104)
        log_speed(panel)
    name_axes(figure, "tokens per forward (logarithmic)", "score, %")
    legend(figure, styles, "")
    heads = ("task", "method", "tokens_per_forward", "score", "score_low", "score_high")
    title = "Measured scores in infill form, and closed forms of exact marginals (lines; solid: drawn, dashed: best)"
    return Drawn(title, figure, heads, rows)


@dataclass(frozen=True, order=True)
class Form:
    """A point of a closed form's curve; the attributes are those of :class:`dlm.exact_model.curves.CurvePoint`."""

    task: str
    decoding: str
    tokens_per_forward: float
    accuracy: float


def read_forms(path: Path) -> list[Form]:
    """The curves of a file, in rising order; nothing where there is no file. Raises SettingsError: a file with other
    columns."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return sorted(
                Form(row["task"], row["decoding"], float(row["tokens_per_forward"]), float(row["accuracy"]))
                for row in csv.DictReader(file)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"{path} is not what `dlm oracle out=DIR` writes: write it again or delete it"
            ) from error
