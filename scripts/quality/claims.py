"""What the ParallelBench paper (arXiv 2510.04767) claims, judged on our model by a rule beside each verdict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean

from scripts.quality.bench import (
    BUDGETS,
    CACHES,
    EQUAL,
    FALL,
    FLAT,
    LENGTHS,
    LISTS,
    MANY_ANSWERS,
    ONE_ANSWER,
    TASKS,
    TEXT,
    Bench,
    at,
    cached,
    length,
    mean,
    topk,
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what our model says of it."""

    text: str
    rule: str
    verdict: str
    evidence: str


def verdict(parts: Sequence[bool]) -> str:
    """All, some or none."""
    return "**reproduced**" if all(parts) else "**partly**" if any(parts) else "**not reproduced**"


def flat_where_one_answer(bench: Bench) -> Claim:
    drops = {t: 100 * (topk(bench, t, 1).row.score - topk(bench, t, 8).row.score) for t in ONE_ANSWER}
    worst = max(drops, key=lambda task: drops[task])
    return Claim(
        "Tasks with one right answer stay flat as more tokens are committed at once",
        f"topk loses at most {FLAT:.0f} points from 1 to 8 tokens a forward",
        verdict([drop <= FLAT for drop in drops.values()]),
        f"{sum(drop <= FLAT for drop in drops.values())} of {len(drops)} tasks; the largest loss is {drops[worst]:.0f}"
        f" points ({worst})",
    )


def fall_where_many(bench: Bench) -> Claim:
    drops = {t: 100 * (topk(bench, t, 1).row.score - topk(bench, t, 8).row.score) for t in MANY_ANSWERS}
    flat = [task for task, drop in drops.items() if drop < FALL]
    return Claim(
        "Tasks with several right answers fall",
        f"topk loses at least {FALL:.0f} points from 1 to 8",
        verdict([drop >= FALL for drop in drops.values()]),
        f"{len(drops) - len(flat)} of {len(drops)} tasks, {fmean(drops.values()):.0f} points on average"
        + (f"; not {', '.join(f'{task} ({drops[task]:.0f})' for task in flat)}" if flat else ""),
    )


def shuffle_steepest(bench: Bench) -> Claim:
    drops = {t: 100 * (topk(bench, t, 1).row.score - topk(bench, t, 2).row.score) for t in MANY_ANSWERS}
    order = sorted(drops, key=lambda task: -drops[task])
    return Claim(
        "... and shuffle the steepest",
        f"the largest loss of topk from 1 to 2 tokens a forward, and at least {FALL:.0f} points, of these tasks",
        verdict([order[0] == "waiting_line/shuffle" and drops[order[0]] >= FALL]),
        ", ".join(f"{task} {drops[task]:.0f}" for task in order[:3]) + " points",
    )


def random_or_sure(bench: Bench) -> list[Claim]:
    claims = []
    for text, tasks, sign in (
        ("Confidence order beats random order where there is one right answer", ONE_ANSWER, 1),
        ("Random order beats confidence order where there are several", MANY_ANSWERS, -1),
    ):
        sure = [mean(topk(bench, t, k).row.score for t in tasks) for k in BUDGETS[1:]]
        drawn = [mean(topk(bench, t, k, "random").row.score for t in tasks) for k in BUDGETS[1:]]
        claims.append(
            Claim(
                text,
                "mean score of topk minus that of random at 2, 4 and 8 tokens a forward, at least"
                f" {EQUAL:.0f} point in the claim's favour",
                verdict([sign * (a - b) >= EQUAL for a, b in zip(sure, drawn, strict=True)]),
                f"{' / '.join(f'{a:.0f}' for a in sure)} % against {' / '.join(f'{b:.0f}' for b in drawn)} %"
                + (": nothing left to lose" if min(*sure, *drawn) >= 99 else ""),
            )
        )
    return claims


def thresholds(bench: Bench) -> list[Claim]:
    def fixed(task: str, speed: float) -> float:
        """Score of topk at a speed (canvas tokens per forward), between the measured budgets by log speed."""
        points = [
            (log2(topk(bench, task, k).row.canvas_tokens_per_forward), topk(bench, task, k).row.score) for k in BUDGETS
        ]
        x = log2(speed)
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            if x <= x1:
                return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
        return points[-1][1]

    safe = {t: (at(bench, t, 0.9).row, fixed(t, at(bench, t, 0.9).row.canvas_tokens_per_forward)) for t in TASKS}
    better = [t for t, (row, other) in safe.items() if row.score >= other - EQUAL / 100]
    low = mean(at(bench, t, 0.5).row.score for t in MANY_ANSWERS)
    high = mean(at(bench, t, 0.9).row.score for t in MANY_ANSWERS)
    return [
        Claim(
            "A confidence threshold beats a fixed budget at a safe setting",
            "threshold 0.9 scores at least what topk does at the same canvas tokens per forward (between the budgets)",
            verdict([len(better) == len(TASKS)] if len(better) in (0, len(TASKS)) else [True, False]),
            f"{len(better)} of {len(TASKS)} tasks; mean {mean(row.score for row, _ in safe.values()):.0f} % against"
            f" {mean(other for _, other in safe.values()):.0f} % at the same speed",
        ),
        Claim(
            "... and collapses at a low one",
            f"on tasks with several right answers threshold 0.5 loses at least {FALL:.0f} points against 0.9",
            verdict([high - low >= FALL]),
            f"{high:.0f} % at 0.9, {low:.0f} % at 0.5",
        ),
    ]


def block_lengths(bench: Bench) -> list[Claim]:
    def slope(tasks: Sequence[str]) -> tuple[float, list[float]]:
        """Points per doubling of the block length at two tokens a forward, and the means."""
        ys = [mean(length(bench, t, size).row.score for t in tasks) for size in LENGTHS]
        xs = [log2(size) for size in LENGTHS]
        middle = fmean(xs)
        return sum((x - middle) * y for x, y in zip(xs, ys, strict=True)) / sum((x - middle) ** 2 for x in xs), ys

    claims = []
    for text, tasks, sign in (
        ("Lists prefer small blocks", [t for t in LISTS if t in MANY_ANSWERS], -1),
        ("Text prefers large blocks", [TEXT], 1),
    ):
        rise, ys = slope(tasks)
        claims.append(
            Claim(
                text,
                f"slope of the mean score over log2 of the block length at two tokens a forward,"
                f" {'at most -' if sign < 0 else 'at least '}{EQUAL:.0f} point"
                f" ({'list tasks with several answers' if sign < 0 else TEXT})",
                verdict([sign * rise >= EQUAL]),
                f"{rise:+.1f} points per doubling; {' / '.join(f'{y:.0f}' for y in ys)} %"
                f" at {', '.join(map(str, LENGTHS))}",
            )
        )
    return claims


def caching(bench: Bench) -> Claim:
    scores = {cache: mean(cached(bench, t, cache).row.score for t in TASKS) for cache in CACHES}
    worse = [cache for cache in CACHES[1:] if scores[cache] <= scores["none"] - EQUAL]
    return Claim(
        "Caching lowers accuracy",
        f"mean over all tasks, threshold 0.9, blocks of 8, against no cache; less than {EQUAL:.0f} point is equal",
        verdict([cache in worse for cache in CACHES[1:]]),
        ", ".join(f"{cache} {scores[cache]:.1f}" for cache in CACHES) + " %",
    )


def remasking(bench: Bench) -> Claim:
    rcr = [mean(topk(bench, t, k, "rcr").row.score for t in TASKS) for k in BUDGETS[1:]]
    plain = [mean(topk(bench, t, k).row.score for t in TASKS) for k in BUDGETS[1:]]
    # ReMDM spends extra forwards: it stands beside the fixed budget that spends as many.
    remdm = [mean(topk(bench, t, k, "remdm").row.score for t in TASKS) for k in (2, 4)]
    spent = [fmean(topk(bench, t, k, "remdm").row.forwards for t in TASKS) for k in (2, 4)]
    beside = [min(BUDGETS, key=lambda k: abs(fmean(topk(bench, t, k).row.forwards for t in TASKS) - f)) for f in spent]
    same = [mean(topk(bench, t, k).row.score for t in TASKS) for k in beside]
    gaps = [a - b for a, b in zip([*rcr, *remdm], [*plain, *same], strict=True)]
    return Claim(
        "RCR and ReMDM do not help",
        f"mean score minus that of topk with as many forwards stays below {EQUAL:.0f} point",
        verdict([gap < EQUAL for gap in gaps]),
        "RCR " + ", ".join(f"{gap:+.1f}" for gap in gaps[:3]) + " at 2, 4, 8 tokens a forward; ReMDM "
        + ", ".join(f"{gap:+.1f} ({f:.0f} forwards)" for gap, f in zip(gaps[3:], spent, strict=True)),
    )  # fmt: skip


def claims_of(bench: Bench) -> list[Claim]:
    """Every claim, in the paper's order."""
    return [
        flat_where_one_answer(bench),
        fall_where_many(bench),
        shuffle_steepest(bench),
        *random_or_sure(bench),
        *thresholds(bench),
        *block_lengths(bench),
        caching(bench),
        remasking(bench),
        Claim(
            "Chain of thought helps at eight times the tokens",
            "the packaged model writes no chain of thought but the one it was trained on",
            "**cannot be tested** on this model",
            "-",
        ),
    ]
