"""How fast a method may be at a score: PBx and the area under score against log2 tokens per forward."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import exp, log2
from typing import Literal

Rule = Literal["ours", "upstream"]
Curve = Sequence[tuple[float, float]]  # (tokens per forward, score)


def grid(curve: Curve, x: float) -> float:
    """The largest measured tokens per forward with a score of at least ``x``; 0 if there is none."""
    return max((speed for speed, score in curve if score >= x), default=0.0)


def last_crossing(curve: Curve, x: float) -> float | None:
    """Where the score, drawn as straight lines from point to point, last falls below ``x``; None: it never does.

    Points of equal speed are ordered by score.
    """
    place = None
    for (speed, score), (faster, lower) in pairwise(sorted(curve)):
        if score >= x > lower:
            place = speed + (score - x) / (score - lower) * (faster - speed)
    return place


def interpolated(curve: Curve, x: float) -> float:
    """The largest tokens per forward at which the curve is at ``x`` or above, also between its points; 0 if none."""
    return max(grid(curve, x), last_crossing(curve, x) or 0.0)


def upstream(curve: Curve, x: float, kind: str) -> float:
    """PBx by the rule of the published leaderboard (arXiv 2510.04767).

    Static methods get the largest grid value, adaptive ones the interpolated last crossing where there is one.
    """
    crossing = last_crossing(curve, x) if kind == "adaptive" else None
    return grid(curve, x) if crossing is None else crossing


def score_at(curve: Curve, speed: float) -> float | None:
    """The score at a speed, linear in log2 of the speed between measured points; None outside of them."""
    points = sorted((s, score) for s, score in curve if s > 0)
    if not points or not points[0][0] <= speed <= points[-1][0]:
        return None
    best: float | None = None
    for (slow, left), (fast, right) in pairwise(points):
        if slow <= speed <= fast:
            share = (log2(speed) - log2(slow)) / (log2(fast) - log2(slow)) if fast > slow else 1.0
            best = left + share * (right - left) if fast > slow else max(left, right)
    return points[0][1] if best is None else best


def area(curve: Curve, low: float, high: float) -> float:
    """Mean score over log2 tokens per forward from ``low`` to ``high``, in the unit of the score.

    Slower than its slowest point a method keeps that point's score; faster than its fastest it gets 0, so that a method
    is not paid for speeds it does not reach.
    """
    points = sorted((speed, score) for speed, score in curve if speed > 0)
    if not points or high <= low:
        return 0.0
    ends = [(min(low, points[0][0]), points[0][1]), *points]
    pieces = (_piece(left, right, low, high) for left, right in pairwise(ends))
    return sum(pieces) / (log2(high) - log2(low))


def aup(curve: Curve, best: float, alpha: float = 3.0, tolerance: float = 5.0) -> float:
    """Accuracy under parallelism (d3LLM, its aup_utils.py): the area under score x W(score) over tokens per forward,
    W(y) = min(1, exp(-alpha (1 - y / best))), left of the slowest point its score alone.

    Args:
        curve: scores in percent.
        best: the highest score of any method.
        tolerance: points that are more than so many percentage points below the slowest one are left out. (The
            published code refuses a curve whose fastest point is one.)
    """
    points = sorted((speed, score) for speed, score in curve if speed > 0)
    points = [(speed, score) for speed, score in points if score >= points[0][1] - tolerance]
    if not points or best <= 0:
        return 0.0
    weighed = [(speed, score * min(1.0, exp(-alpha * (1 - score / best)))) for speed, score in points]
    pieces = ((fast - slow) * (left + right) / 2 for (slow, left), (fast, right) in pairwise(weighed))
    return points[0][0] * points[0][1] + sum(pieces)


def _piece(left: tuple[float, float], right: tuple[float, float], low: float, high: float) -> float:
    """Area under a straight line over log2 of the speed, as far as it lies between ``low`` and ``high``."""
    start, stop = max(left[0], low), min(right[0], high)
    if stop <= start:
        return 0.0
    slope = (right[1] - left[1]) / (log2(right[0]) - log2(left[0]))
    heights = [left[1] + slope * (log2(speed) - log2(left[0])) for speed in (start, stop)]
    return (log2(stop) - log2(start)) * sum(heights) / 2
