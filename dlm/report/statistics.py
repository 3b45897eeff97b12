"""How sure a figure is: intervals, and paired tests of two runs on the same questions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from dlm.evaluation.intervals import wilson

Floats = NDArray[np.float64]

RESAMPLES = 2000
PAIRED_RESAMPLES = 10_000
SEED = 20251007
CELLS = 4_000_000  # of a matrix of resampled indices that is kept


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    # mean, low, high: in the unit of the values
    mean: float
    low: float
    high: float
    # ``wilson`` (independent answers, each right or wrong), ``bootstrap`` (over questions) or ``wilson over questions``
    # (several seeds a question, all of which agree)
    kind: str


def by_question(values: Floats, questions: NDArray[np.int64]) -> Floats:
    """Mean value of each question: seeds of one question are not independent of each other."""
    _, place, count = np.unique(questions, return_inverse=True, return_counts=True)
    means: Floats = np.bincount(place, weights=values) / count
    return means


def interval_of(scores: Floats, questions: NDArray[np.int64]) -> Interval:
    """The mean of [N] scores in [0, 1] and how far it may be from the true one."""
    n = len(scores)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), "none")
    mean = float(scores.mean())
    binary = bool(np.all((scores == 0) | (scores == 1)))
    several = len(np.unique(questions)) < n
    if binary and not several:
        return Interval(mean, *wilson(float(scores.sum()), n), "wilson")
    units = by_question(scores, questions) if several else scores
    if binary and (len(units) == 1 or np.all(units == units[0])):
        # Resampling equal values gives no width; that many questions do not justify one of 0.
        return Interval(mean, *wilson(float(units.sum()), len(units)), "wilson over questions")
    low, high = np.quantile(resampled_means(units, RESAMPLES), (0.025, 0.975))
    return Interval(mean, min(float(low), mean), max(float(high), mean), "bootstrap")


def resampled_means(values: Floats, resamples: int) -> Floats:
    """Means of ``resamples`` draws with replacement of all [N] values; the draws depend on N alone."""
    if len(values) * resamples <= CELLS:
        means: Floats = values[_draws(len(values), resamples)].mean(axis=1)
        return means
    rng = np.random.Generator(np.random.Philox(SEED))
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) * resamples <= CELLS:  # how often each value is drawn says as much, and is drawn faster
        drawn: Floats = rng.multinomial(len(values), counts / len(values), resamples) @ kinds / len(values)
        return drawn
    return np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)])


@lru_cache(maxsize=4)
def _draws(n: int, resamples: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(SEED)).integers(0, n, (resamples, n))


def mean_interval(parts: list[Interval]) -> tuple[float, float, float]:
    """The unweighted mean of independent figures with its interval, recovered from theirs (Zou and Donner, 2008).

    A figure that is 0 or 1 keeps the one-sided width its own interval has.
    """
    n = len(parts)
    mean = sum(p.mean for p in parts) / n
    low = mean - sqrt(sum((p.mean - p.low) ** 2 for p in parts)) / n
    high = mean + sqrt(sum((p.high - p.mean) ** 2 for p in parts)) / n
    return mean, max(0.0, low), min(1.0, high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of "neither is better" from the questions that one alone answers rightly."""
    n = only_a + only_b
    tail = ways = 1
    for i in range(min(only_a, only_b)):  # each binomial from the one before: there may be thousands
        ways = ways * (n - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


@dataclass(frozen=True)
class Paired:
    """Two runs on the same questions."""

    n: int  # answers in both (question and seed)
    questions: int  # how many questions they belong to
    # a, b: mean scores over these answers
    a: float
    b: float
    # difference, low, high: ``b - a`` with its 95 % interval (paired bootstrap over questions)
    difference: float
    low: float
    high: float
    # only_a, only_b: answers that one alone has right; None where scores are not just right or wrong
    only_a: int | None
    only_b: int | None
    p: float  # two-sided: McNemar's exact test for right or wrong with one seed, else the bootstrap's
    test: str  # ``mcnemar`` or ``bootstrap``
    # forwards_a, forwards_b: mean forwards
    forwards_a: float
    forwards_b: float


def paired(a: Floats, b: Floats, questions: NDArray[np.int64], forwards: tuple[Floats, Floats]) -> Paired:
    """Compare aligned [N] scores, N >= 1; ``questions`` says which answers share a question."""
    differences = b - a
    units = by_question(differences, questions)
    draws = resampled_means(units, PAIRED_RESAMPLES)
    low, high = np.quantile(draws, (0.025, 0.975))
    binary = bool(np.all((a == 0) | (a == 1)) and np.all((b == 0) | (b == 1)))
    only_a, only_b = int((differences < 0).sum()), int((differences > 0).sum())
    if binary and len(units) == len(a):
        test, p = "mcnemar", mcnemar(only_a, only_b)
    else:
        below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
        test, p = "bootstrap", min(1.0, 2 * (min(below, above) + 1) / (len(draws) + 1))
    return Paired(
        len(a), len(units), float(a.mean()), float(b.mean()), float(differences.mean()), float(low), float(high),
        only_a if binary else None, only_b if binary else None, p, test,
        float(forwards[0].mean()), float(forwards[1].mean()),
    )  # fmt: skip
