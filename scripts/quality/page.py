"""The document: docs/parallelbench.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import dlm
from dlm.evaluation.intervals import wilson
from dlm.evaluation.point import canonical
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
each figure is made: [evaluation.md](evaluation.md). With so many questions a score of 90 % has a 95 % interval from
{ninety}, one of 50 % from {fifty}.

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
    floors = {task: topk(bench, task, 1).row.score - FLAT / 100 for task in TASKS}
    rows = []
    for name, settings in by_preset(bench).items():
        speeds, cells = [], []
        for group in (ONE_ANSWER, MANY_ANSWERS, ("math/word_problem",)):
            fastest = [
                max(
                    (m[t].row.tokens_per_forward for m in settings if t in m and m[t].row.score >= floors[t]),
                    default=0.0,
                )
                for t in group
            ]
            kept = [speed for speed in fastest if speed]
            cells.append(f"{len(kept)} of {len(group)}" + (f", {fmean(kept):.1f}" if kept else ""))
            speeds += kept
        best = max((mean(f.row.score for f in m.values()) for m in settings if set(m) == set(TASKS)), default=0.0)
        rows.append((len(speeds), fmean(speeds) if speeds else 0.0, [f"`{name}`", f"{best:.1f}", *cells]))
    rows.sort(key=lambda row: (-row[0], -row[1]))
    heads = ["preset", "best mean score, %", "one right answer", "several right answers", "word problems"]
    return table(heads, [cells for _, _, cells in rows])


def by_preset(bench: Bench) -> dict[str, list[dict[str, Figures]]]:
    """Preset -> its settings without a cache, each as task -> point."""
    found: dict[str, dict[str, dict[str, Figures]]] = {}
    for figures in bench.figures:
        config = figures.result.point.config
        if of(figures, "cache") == "none":
            setting = canonical([config["sampler"], config["blocks"]])
            found.setdefault(of(figures, "sampler"), {}).setdefault(setting, {})[figures.row.task] = figures
    return {name: list(settings.values()) for name, settings in sorted(found.items())}


def page(bench: Bench, picture: str | None = None) -> str:
    """The whole document; ``picture`` is a file beside it."""
    rows = [figures.row for figures in bench.figures]
    fewest = min(row.questions for row in rows)
    ninety, fifty = (" to ".join(f"{100 * end:.0f}" for end in wilson(p * fewest, fewest)) for p in (0.9, 0.5))
    head = HEAD.format(
        ninety=ninety,
        fifty=fifty,
        version=dlm.__version__,
        points=len(rows),
        questions=" or ".join(str(n) for n in sorted({row.questions for row in rows})),
        answers=sum(row.samples for row in rows),
        failures=sum(row.failures for row in rows),
        unfinished=len(bench.unfinished),
    )
    judged = [[claim.text, claim.verdict, claim.evidence, claim.rule] for claim in claims_of(bench)]
    lines = [head, *table(["claim", "verdict", "evidence", "judged by"], judged)]
    if picture is not None:
        lines += [f"![Mean score over all tasks against tokens per forward, by method]({picture})", ""]
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
