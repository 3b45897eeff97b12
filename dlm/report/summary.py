"""Over many points: means over tasks, standings of methods, the best setting per sample, the map of tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import log2
from statistics import fmean
from typing import Any

import numpy as np

from dlm.report import pbx
from dlm.report.figures import Figures, ratio
from dlm.report.methods import numeric
from dlm.report.statistics import mean_interval

NAN = float("nan")
LENGTH = "blocks.length"
USUAL_BUDGET = 2  # tokens per step at which block lengths are compared
SAME_BUDGET = 0.1  # octaves between budgets that count as one: steps that were set make other ones on other canvases
SPEEDS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


@dataclass(frozen=True)
class Mean:
    """A setting of a method over all tasks; the figures are NaN unless it was measured on every one of them."""

    # method, setting, kind: as in :class:`dlm.report.figures.Row`
    method: str
    setting: str
    kind: str
    tasks: int  # tasks with samples
    missing: tuple[str, ...]  # names of those without
    apart: tuple[str, ...]  # names of those where it answered other questions than most: compared with nothing
    questions: int  # that the figures are over, all tasks together
    marks: str  # ``unfinished`` and ``failures`` among its points, with how many
    # score, score_low, score_high: unweighted mean over tasks, with its 95 % interval
    score: float = NAN
    score_low: float = NAN
    score_high: float = NAN
    # tokens_per_forward, canvas_tokens_per_forward, forwards, tokens_per_second: unweighted means over tasks
    tokens_per_forward: float = NAN
    canvas_tokens_per_forward: float = NAN
    forwards: float = NAN
    tokens_per_second: float = NAN

    @property
    def complete(self) -> bool:
        """Whether every task is there, with the questions that others answered."""
        return not self.missing and not self.apart


@dataclass(frozen=True)
class Standing:
    """A method over all its settings that were measured on every task."""

    # method, kind: names
    method: str
    kind: str
    # settings, complete: how many settings there are, and how many of them on every task
    settings: int
    complete: int
    best: float  # the highest mean score, NaN without a complete setting
    best_speed: float  # tokens per forward there
    area: float  # mean score over log2 tokens per forward in the report's range; NaN where that is a single speed
    pbx: dict[float, tuple[float, ...]]  # per x the measured and the interpolated value, or the published rule's alone
    aup: float = NAN  # accuracy under parallelism, of all methods' best score
    # oracle_score, oracle_speed: the best setting picked for every sample; means over tasks
    oracle_score: float = NAN
    oracle_speed: float = NAN


@dataclass(frozen=True)
class BestPerSample:
    """Per sample the best score any setting of a method reached, and of those the one with the fewest forwards."""

    # method, task: names
    method: str
    task: str
    settings: int  # how many there are to pick from
    samples: int  # answers that every one of them has
    # score, forwards, tokens_per_forward: means over these
    score: float
    forwards: float
    tokens_per_forward: float
    # best_setting, best_score: the setting that is best for all of these samples together
    best_setting: str
    best_score: float


@dataclass(frozen=True)
class Mapped:
    """Where a task lies on the map (after arXiv 2510.04767)."""

    task: str  # its name
    # sum of k x score / sum of scores over the budgets k of ``method``; lower is harder to decode in parallel. NaN:
    # nothing was right.
    parallelisability: float
    # slope of the score in points per doubling of the block length; positive: larger blocks (a free order) are better,
    # negative: smaller ones (left to right). NaN: block lengths were not swept.
    order: float
    # method, order_method: whose scores they are
    method: str
    order_method: str


@dataclass(frozen=True)
class Line:
    """Scores of one group of points by block length, on one task: (length, score in [0, 1], low, high)."""

    task: str
    method: str
    kind: str
    budget: float
    points: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Options:
    """What the report is asked for."""

    x: tuple[float, ...] = (70.0, 75.0, 80.0, 90.0)  # scores of PBx, in percent
    rule: pbx.Rule = "ours"  # ``ours`` or ``upstream``
    # low, high: range of the area; None: from the slowest to the fastest point of any method
    low: float | None = None
    high: float | None = None
    at: float | None = None  # tokens per forward of the heat map; None: where most methods were measured


@dataclass(frozen=True)
class Summary:
    """Everything a report says, before it is laid out."""

    options: Options
    figures: list[Figures]
    tasks: list[str]
    means: list[Mean]
    standings: list[Standing]
    best: list[BestPerSample]
    mapped: list[Mapped]
    lengths: list[Line]
    range: tuple[float, float]
    at: float
    heat: dict[tuple[str, str], float] = field(default_factory=dict)  # (method, task) -> score at `at`, interpolated

    @property
    def compared(self) -> list[Figures]:
        """The points that answered the questions on which their task's are compared."""
        return [f for f in self.figures if f.row.compared]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, the best standing first."""
        return [standing.method for standing in self.standings]


def summary_of(figures: Sequence[Figures], options: Options) -> Summary:
    """Put all points together."""
    figures = sorted(figures, key=lambda f: (f.row.task, f.row.method, f.row.tokens_per_forward))
    tasks = sorted({f.row.task for f in figures})
    means = means_of(figures, tasks)
    figures, every = [f for f in figures if f.row.compared], figures
    bests = best_per_sample_of(figures)
    speeds = [speed for m in means if (speed := _speed(m, options)) > 0]
    ends = options.low or min(speeds, default=1.0), options.high or max(speeds, default=1.0)
    top = max((m.score for m in means if m.complete), default=0.0)
    standings = []
    for name in dict.fromkeys(m.method for m in means):
        own, theirs = [m for m in means if m.method == name], [o for o in bests if o.method == name]
        standings.append(_standing(own, theirs, tasks, options, ends, top))
    standings.sort(key=lambda s: (-_or(s.area, -1.0), -_or(s.best, -1.0), s.method))
    lengths = lengths_of(figures)
    at = options.at or _usual_speed(figures)
    # What was not measured on both sides of the speed is left out.
    scores = {key: pbx.score_at(curve, at) for key, curve in _curves(figures).items()}
    heat = {key: score for key, score in scores.items() if score is not None}
    mapped = _map(figures, tasks, lengths)
    return Summary(options, every, tasks, means, standings, bests, mapped, lengths, ends, at, heat)


def means_of(figures: Sequence[Figures], tasks: Sequence[str]) -> list[Mean]:
    """Every setting over all tasks; never over some of them."""
    groups: dict[tuple[str, str], list[Figures]] = {}
    for f in figures:
        groups.setdefault((f.row.method, f.row.setting), []).append(f)
    means = []
    for (method, setting), members in groups.items():
        answered = [f for f in members if f.row.samples]
        missing = tuple(task for task in tasks if task not in {f.row.task for f in answered})
        apart = tuple(f.row.task for f in answered if not f.row.compared)
        counts = {status: sum(f.row.status == status for f in members) for status in ("unfinished", "failures")}
        marks = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        asked = sum(f.row.questions for f in answered)
        head = Mean(method, setting, members[0].row.kind, len(tasks) - len(missing), missing, apart, asked, marks)
        means.append(head if missing else _filled(head, answered))
    return sorted(means, key=lambda m: (_natural(m.method), _or(m.tokens_per_forward, 0.0), _natural(m.setting)))


def _natural(name: str) -> list[tuple[float, str]]:
    """A sorting key that puts 4 before 16."""
    return [(float(piece), "") if i % 2 else (0.0, piece) for i, piece in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]


def _filled(head: Mean, members: Sequence[Figures]) -> Mean:
    score, low, high = mean_interval([f.interval for f in members])
    names = ("tokens_per_forward", "canvas_tokens_per_forward", "forwards", "tokens_per_second")
    figures: dict[str, Any] = {name: fmean(getattr(f.row, name) for f in members) for name in names}
    return replace(head, score=score, score_low=low, score_high=high, **figures)


def _speed(mean: Mean, options: Options) -> float:
    """What PBx and the area count: content tokens per forward; the published rule counts the canvas."""
    return mean.canvas_tokens_per_forward if options.rule == "upstream" else mean.tokens_per_forward


def _standing(
    means: Sequence[Mean],
    bests: Sequence[BestPerSample],
    tasks: Sequence[str],
    options: Options,
    ends: tuple[float, float],
    top: float,
) -> Standing:
    whole = [m for m in means if m.complete]
    # Rounded: the mean of three scores of 0.7 may be a hair below 0.7, and is no less than 70 %.
    curve = [(_speed(m, options), round(100 * m.score, 9)) for m in whole]
    values: dict[float, tuple[float, ...]] = {}
    for x in options.x:
        if options.rule == "upstream":
            values[x] = (pbx.upstream(curve, x, means[0].kind),)
        else:
            values[x] = (pbx.grid(curve, x), pbx.interpolated(curve, x))
    best = max(whole, key=lambda m: (m.score, m.tokens_per_forward), default=None)
    # The best of fewer settings is a weaker best: no mean over tasks whose settings differ.
    covered = len(bests) == len(tasks) and all(o.samples for o in bests) and len({o.settings for o in bests}) == 1
    return Standing(
        means[0].method, means[0].kind, len(means), len(whole),
        best.score if best else NAN, best.tokens_per_forward if best else NAN,
        pbx.area(curve, *ends) / 100 if whole and ends[0] < ends[1] else NAN, values if whole else {},
        pbx.aup(curve, 100 * top) if whole else NAN,
        fmean(o.score for o in bests) if covered else NAN,
        fmean(o.tokens_per_forward for o in bests) if covered else NAN,
    )  # fmt: skip


def best_per_sample_of(figures: Sequence[Figures]) -> list[BestPerSample]:
    """The best per sample of every method with several settings, task by task."""
    groups: dict[tuple[str, str], list[Figures]] = {}
    for f in figures:
        if f.row.samples:
            groups.setdefault((f.row.method, f.row.task), []).append(f)
    return [_best_per_sample(group) for group in groups.values() if len(group) > 1]


def _best_per_sample(group: Sequence[Figures]) -> BestPerSample:
    keys = [f.result.columns.keys for f in group]
    shared = reduce(np.intersect1d, keys)
    rows = [np.argsort(k)[np.searchsorted(np.sort(k), shared)] for k in keys]
    columns = [f.result.columns for f in group]
    score = np.array([c["score"][at] for c, at in zip(columns, rows, strict=True)])
    forwards = np.array([c["forwards"][at] for c, at in zip(columns, rows, strict=True)])
    speed = np.array([ratio(c["tokens"], c["content_forwards"])[at] for c, at in zip(columns, rows, strict=True)])
    first = group[0].row
    if not len(shared):
        return BestPerSample(first.method, first.task, len(group), 0, NAN, NAN, NAN, "", NAN)
    best = score.max(axis=0)
    pick = np.where(score == best, forwards, np.inf).argmin(axis=0)
    own = np.arange(len(shared))
    totals = score.mean(axis=1)
    alone = max(range(len(group)), key=lambda i: (totals[i], -forwards[i].mean()))
    return BestPerSample(
        first.method, first.task, len(group), len(shared), float(best.mean()), float(forwards[pick, own].mean()),
        float(speed[pick, own].mean()), group[alone].row.setting, float(totals[alone]),
    )  # fmt: skip


def lengths_of(figures: Sequence[Figures]) -> list[Line]:
    """Scores by block length where several lengths were measured and nothing else differs."""
    groups: dict[tuple[str, str, tuple], list[Figures]] = {}
    for f in figures:
        if f.row.samples and numeric(f.place.values.get(LENGTH)) is not None:
            rest = tuple((key, value) for key, value in f.place.values.items() if key != LENGTH)
            groups.setdefault((f.row.task, f.place.parts, rest), []).append(f)
    lines = []
    for (task, parts, rest), members in groups.items():
        points = sorted(
            (float(f.place.values[LENGTH]), f.interval.mean, f.interval.low, f.interval.high) for f in members
        )
        if len({point[0] for point in points}) > 1:
            name = " ".join([parts, *(f"{key}={value}" for key, value in rest)])
            # The budget that was set; where steps were set, what came of it.
            measured = fmean(f.row.canvas_tokens_per_forward for f in members)
            budget = numeric(members[0].result.point.config["sampler"].get("tokens_per_step")) or measured
            lines.append(Line(task, name, members[0].row.kind, budget, tuple(points)))
    return lines


def at_one_budget(lines: Sequence[Line]) -> list[Line]:
    """Of the static methods those at two tokens per step, or nearest to it; adaptive ones where there are no others."""
    static = [line for line in lines if line.kind == "static"]
    if not static:
        return list(lines)
    budget = min({line.budget for line in static}, key=lambda b: (abs(log2(b / USUAL_BUDGET)), b))
    return [line for line in static if abs(log2(line.budget / budget)) < SAME_BUDGET]


def _map(figures: Sequence[Figures], tasks: Sequence[str], lengths: Sequence[Line]) -> list[Mapped]:
    method = _reference_method(figures)
    chosen = at_one_budget(lengths)
    counts = {name: sum(line.method == name for line in chosen) for name in sorted({line.method for line in chosen})}
    order_method = max(counts, key=lambda name: counts[name], default="")
    mapped = []
    for task in tasks:
        own = [f.row for f in figures if f.row.task == task and f.row.method == method and f.row.samples]
        right = sum(row.score for row in own)
        weighed = sum(row.canvas_tokens_per_forward * row.score for row in own) / right if right else NAN
        points = next((line.points for line in chosen if (line.task, line.method) == (task, order_method)), None)
        # Least squares of score against log2 of the length.
        slope = NAN if points is None else float(np.polyfit([log2(p[0]) for p in points], [p[1] for p in points], 1)[0])
        mapped.append(Mapped(task, weighed, 100 * slope, method, order_method))
    return mapped


def _reference_method(figures: Sequence[Figures]) -> str:
    """The method whose budgets the map uses: a static one if there is one, then the one with most tasks and points."""
    names = sorted({f.row.method for f in figures if f.row.samples})

    def worth(name: str) -> tuple[bool, int, int]:
        own = [f.row for f in figures if f.row.method == name and f.row.samples]
        return own[0].kind == "static" and len(own) > 1, len({row.task for row in own}), len(own)

    return max(names, key=worth, default="")


def _curves(figures: Iterable[Figures]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(method, task) -> (tokens per forward, score) of its settings."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for f in figures:
        if f.row.samples:
            curves.setdefault((f.row.method, f.row.task), []).append((f.row.tokens_per_forward, f.row.score))
    return curves


def _usual_speed(figures: Sequence[Figures]) -> float:
    """Where most methods were measured on most tasks; of equals the one nearest to two."""
    curves = _curves(figures).values()

    def worth(speed: float) -> tuple[int, float]:
        return sum(pbx.score_at(c, speed) is not None for c in curves), -abs(log2(speed / USUAL_BUDGET))

    return max(SPEEDS, key=worth)


def _or(value: float, other: float) -> float:
    return other if value != value else value
