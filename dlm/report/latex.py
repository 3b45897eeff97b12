"""A report as LaTeX tables (booktabs), to be put into a paper."""

from __future__ import annotations

from collections.abc import Sequence

from dlm import __version__
from dlm.report.pairs import compare
from dlm.report.summary import Mean, Summary
from dlm.report.tables import DASH, number, share
from dlm.words import counted, visible

LEVEL = 0.05  # of a paired test that marks a setting
_ESCAPED = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
                                               "^": r"\textasciicircum{}"}  # fmt: skip


def latex(summary: Summary) -> str:
    """Settings over all tasks, then methods over their settings; below them what was asked and how it was counted."""
    return "\n".join(_table(*parts) for parts in (_settings(summary), _methods(summary)))


def escaped(text: str) -> str:
    """A text that LaTeX prints as it is."""
    return "".join(_ESCAPED.get(sign, sign) for sign in visible(text))


def _settings(summary: Summary) -> tuple[str, list[str], list[list[str]], list[str]]:
    whole = [m for m in summary.means if m.complete]
    best = max(whole, key=lambda m: (m.score, m.tokens_per_forward), default=None)
    rows, tested = [], False
    for mean in whole:
        mark = ""
        if best is not None and mean is not best:
            p = compare(summary.figures, [_label(best), _label(mean)])[-1].test.p
            mark = "$^{*}$" if p < LEVEL else ""
            tested |= p < LEVEL
        score = share(mean.score) if mean.score < (best.score if best else 0) else rf"\textbf{{{share(mean.score)}}}"
        half = f"{50 * (mean.score_high - mean.score_low):.1f}"
        rows.append(
            [
                escaped(mean.method), escaped(mean.setting or DASH), rf"{score}{mark} {{\scriptsize$\pm${half}}}",
                number(mean.tokens_per_forward), number(mean.forwards, 1), number(mean.tokens_per_second, 0),
            ]
        )  # fmt: skip
    n = len(summary.tasks)
    notes = [f"Score: mean in percent over {counted(n, 'task')}, half of the 95\\,\\% interval beside it."]
    if tested:
        notes.append(
            f"$^{{*}}$: differs from the best score on the same questions (McNemar or paired bootstrap, $p < {LEVEL}$,"
            " not corrected for the number of settings)."
        )
    if left := len(summary.means) - len(whole):
        notes.append(f"{counted(left, 'setting')} not measured on every task left out.")
    heads = ["Method", "Setting", "Score", "Tokens / forward", "Forwards", "Tokens / s"]
    return "settings", heads, rows, [*notes, *_asked(summary)]


def _methods(summary: Summary) -> tuple[str, list[str], list[list[str]], list[str]]:
    x = summary.options.x
    last = -1  # the interpolated value, or the published rule's
    rows = [
        [escaped(s.method), share(s.best), number(s.best_speed), share(s.area), number(s.aup, 1),
         *(number(s.pbx[v][last]) if v in s.pbx else DASH for v in x)]
        for s in summary.standings
    ]  # fmt: skip
    low, high = summary.range
    notes = [
        f"Area: mean score over $\\log_2$ of tokens per forward from {low:.3g} to {high:.3g}.",
        "AUP: accuracy under parallelism (d3LLM), $\\alpha=3$, points at most 5 percentage points below the slowest.",
        "PB$x$: the most tokens per forward at a mean score of $x$\\,\\% or more, between points as well"
        + (" by the published rule." if summary.options.rule == "upstream" else "."),
    ]
    heads = ["Method", "Best", "at tokens / forward", "Area", "AUP", *(f"PB{v:g}" for v in x)]
    return "methods", heads, rows, notes


def _asked(summary: Summary) -> list[str]:
    """Which questions, by task; their hash is the same wherever the same were asked."""
    hashes = {f.row.task: (f.row.questions, f.row.questions_hash) for f in reversed(summary.figures)}
    told = (f"{escaped(task)} {n} (\\texttt{{{digest}}})" for task, (n, digest) in sorted(hashes.items()))
    return [f"Questions: {', '.join(told)}. dlm {escaped(__version__)}."]


def _label(mean: Mean) -> str:
    return f"{mean.method} {mean.setting}".strip()


def _table(name: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    columns = "ll" if name == "settings" else "l"
    lines = [
        rf"% {name}; needs \usepackage{{booktabs}}", r"\begin{table}", r"\centering",
        rf"\begin{{tabular}}{{{columns}{'r' * (len(heads) - len(columns))}}}", r"\toprule",
        " & ".join(heads) + r" \\", r"\midrule", *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule",
        r"\end{tabular}", r"\par\smallskip\footnotesize " + " ".join(notes), r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)
