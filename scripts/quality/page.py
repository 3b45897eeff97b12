"""The document: docs/parallelbench.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import dlm
from dlm.report.figures import Figures
from scripts.quality.bench import (
    BUDGETS,
    CACHES,
    FLAT,
    LENGTHS,
    LEVELS,
    MANY_ANSWERS,
    ONE_ANSWER,
    TASKS,
    Bench,
    at,
    cached,
    length,
    mean,
    of,
    topk,
)  # fmt: skip
from scripts.quality.claims import claims_of

HEAD = """# The packaged model's benchmark

Made by `make bench-quality` (dlm {version}): [the grid](../conf/grid/tiny.yaml) of {points:,} points, {questions}
held-out questions each, {answers:,} answers, {failures} failures, {unfinished} unfinished points. Temperature 0. How
each figure is made: [evaluation.md](evaluation.md). With 50 questions a score of 90 % has a 95 % interval from 79 to
96, one of 50 % from 37 to 63.

## The paper's claims on our model
ParallelBench (arXiv 2510.04767) says of LLaDA and Dream what the first column says. Our model is a LLaDA of 1.4 M
parameters that knows fifteen families of short questions; what does not carry over says something of the model, not of
the paper.
"""
PRESETS = """## Every preset
On how many tasks some setting keeps the score of one token per forward to within {flat:.0f} points, and the mean
effective tokens per forward of the fastest such settings (chosen per task and after the fact: an upper bound on what
tuning can give). The best mean score is that of the best single setting over all tasks.
"""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def grid_table(heads: Sequence[str], points: Callable[[str], list[Figures]]) -> list[str]:
    """Score in percent / effective tokens per forward, one row a task."""

    def cell(figures: Figures) -> str:
        return f"{100 * figures.row.score:.0f} / {figures.row.tokens_per_forward:.1f}"

    return table(["task", *heads], [[task, *map(cell, points(task))] for task in TASKS])


def presets_table(bench: Bench) -> list[str]:
    """Every preset: per task the fastest setting that keeps what one token a forward scores."""
    names = sorted({of(f, "sampler") for f in bench.figures})
    rows = []
    for name in names:
        speeds, cells = [], []
        for group in (ONE_ANSWER, MANY_ANSWERS, ("math/word_problem",)):
            mine = [fastest(bench, task, name) for task in group]
            kept = [f.row.tokens_per_forward for f in mine if f is not None]
            cells.append(f"{len(kept)} of {len(group)}" + (f", {fmean(kept):.1f}" if kept else ""))
            speeds += kept
        best = max(
            mean(best_score(bench, task, name, setting) for task in TASKS) for setting in settings_of(bench, name)
        )
        rows.append((len(speeds), fmean(speeds) if speeds else 0.0, [f"`{name}`", f"{best:.1f}", *cells]))
    rows.sort(key=lambda row: (-row[0], -row[1]))
    heads = ["preset", "best mean score, %", "one right answer", "several right answers", "word problems"]
    return table(heads, [cells for _, _, cells in rows])


def settings_of(bench: Bench, name: str) -> list[str]:
    """The settings of a preset without a cache that were run on every task."""
    found: dict[str, set[str]] = {}
    for figures in bench.figures:
        if of(figures, "sampler") == name and of(figures, "cache") == "none":
            found.setdefault(_setting(figures), set()).add(figures.row.task)
    return [setting for setting, tasks in found.items() if tasks >= set(TASKS)]


def best_score(bench: Bench, task: str, name: str, setting: str) -> float:
    """Score of one setting on one task."""
    return next(
        f.row.score
        for f in bench.figures
        if f.row.task == task and of(f, "sampler") == name and of(f, "cache") == "none" and _setting(f) == setting
    )


def _setting(figures: Figures) -> str:
    config = figures.result.point.config
    return repr((sorted(config["sampler"].items(), key=str), sorted(config["blocks"].items(), key=str)))


def fastest(bench: Bench, task: str, name: str) -> Figures | None:
    """The setting with the most tokens per forward whose score is within the tolerance of one token a forward."""
    floor = topk(bench, task, 1).row.score - FLAT / 100
    mine = [f for f in bench.figures if f.row.task == task and of(f, "sampler") == name and of(f, "cache") == "none"]
    kept = [f for f in mine if f.row.score >= floor]
    return max(kept, key=lambda f: f.row.tokens_per_forward, default=None)


def page(bench: Bench) -> str:
    """The whole document."""
    rows = [figures.row for figures in bench.figures]
    head = HEAD.format(
        version=dlm.__version__,
        points=len(rows),
        questions=" or ".join(str(n) for n in sorted({row.questions for row in rows})),
        answers=sum(row.samples for row in rows),
        failures=sum(row.failures for row in rows),
        unfinished=len(bench.unfinished),
    )
    judged = [[claim.text, claim.verdict, claim.evidence, claim.rule] for claim in claims_of(bench)]
    lines = [head, *table(["claim", "verdict", "evidence", "judged by"], judged)]
    lines += ["## A fixed number of tokens per forward"]
    lines += ["Score in % / effective tokens per forward; blocks of 16. `topk` commits the surest first.", ""]
    lines += grid_table([f"topk k={k}" for k in BUDGETS], lambda task: [topk(bench, task, k) for k in BUDGETS])
    lines += grid_table(
        [f"random k={k}" for k in BUDGETS], lambda task: [topk(bench, task, k, "random") for k in BUDGETS]
    )
    lines += ["## As many as are sure", "The confidence threshold, blocks of 16.", ""]
    lines += grid_table([str(level) for level in LEVELS], lambda task: [at(bench, task, level) for level in LEVELS])
    lines += ["## Block length at two tokens a forward"]
    lines += grid_table([str(size) for size in LENGTHS], lambda task: [length(bench, task, size) for size in LENGTHS])
    lines += ["## Caches", "Threshold 0.9, blocks of 8.", ""]
    lines += grid_table(CACHES, lambda task: [cached(bench, task, cache) for cache in CACHES])
    return "\n".join([*lines, PRESETS.format(flat=FLAT), *presets_table(bench)])
