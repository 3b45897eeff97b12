"""What rules that read confidences achieve on exact marginals (docs/oracle.md).

As long as every token so far is right, an open place of a shuffle has confidence 1/r, r the number of open places; one
of a replacement that has not happened yet keeps its item with confidence (r - 1)/r.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from math import comb, floor, log

from dlm.exact_model.closed_forms import Sizes, replace, shuffle, shuffle_in

Count = Callable[[int], int]  # open places -> places committed at once


def sizes_of(n: int, count: Count) -> Sizes:
    """The blocks a rule makes of ``n`` open places."""
    sizes = []
    while n:
        sizes.append(min(n, count(n)))
        n -= sizes[-1]
    return tuple(sizes)


def passes(confidence: Fraction, threshold: Fraction, strict: bool) -> bool:
    """Whether a confidence is enough: above the threshold, or (not ``strict``) on it."""
    return confidence > threshold or (not strict and confidence == threshold)


def shuffle_threshold(n: int, threshold: Fraction, strict: bool = False) -> tuple[Fraction, int]:
    """Accuracy and forwards, for drawn and for best tokens: all that is left at once as soon as 1/r passes."""
    last = max((r for r in range(1, n + 1) if passes(Fraction(1, r), threshold, strict)), default=1)
    return shuffle(last), n - last + 1


def replace_threshold(n: int, threshold: Fraction, strict: bool = False) -> tuple[Fraction, int]:
    """Accuracy and forwards with best tokens (n > 2): all items are kept at once, or one after the other."""
    at_once = passes(Fraction(n - 1, n), threshold, strict)
    return (Fraction(0), 1) if at_once else (Fraction(1), n)


def replace_threshold_drawn(n: int, threshold: Fraction, strict: bool = False) -> Fraction:
    """Accuracy with drawn tokens that are held against the threshold by their own probability."""

    @cache
    def rest(r: int) -> Fraction:
        if r == 1:
            return Fraction(1)
        law = [comb(r, j) * Fraction(1, r) ** j * Fraction(r - 1, r) ** (r - j) for j in range(r + 1)]
        if passes(Fraction(1, r), threshold, strict):  # newcomers pass as well as items
            return law[1]
        if passes(Fraction(r - 1, r), threshold, strict):  # only items pass; a row of newcomers commits one of them
            settled = sum((law[j] * rest(j) for j in range(1, r)), Fraction(0))
            return settled + law[r]
        return rest(r - 1) * (1 - law[r]) + law[r]  # nothing passes: the best one, an item if there is one

    return rest(n)


def replace_threshold_most(n: int, threshold: Fraction, strict: bool = False) -> Fraction:
    """Accuracy with drawn tokens where a place passes by its largest probability, whatever was drawn."""
    return replace(n) if passes(Fraction(n - 1, n), threshold, strict) else Fraction(1)


def factor_count(confidence: Fraction, places: int, factor: Fraction, slip: bool = False) -> int:
    """How many of so many equally sure places the factor rule commits: the largest j with (j + 1)(1 - c) < factor.

    ``slip``: as in the published code, which lets equality pass, and which commits the last place too when it is the
    only one that fails.
    """
    costs = [(j + 1) * (1 - confidence) for j in range(1, places + 1)]
    good = [j for j, cost in enumerate(costs, start=1) if passes(factor, cost, strict=not slip)]
    most = max(good, default=1)
    return places if slip and most == places - 1 else most


def shuffle_factor(n: int, factor: Fraction, slip: bool = False) -> tuple[Fraction, int]:
    """Accuracy and forwards of the factor rule."""
    sizes = sizes_of(n, lambda r: factor_count(Fraction(1, r), r, factor, slip))
    return shuffle_in(sizes), len(sizes)


def replace_factor(n: int, factor: Fraction, slip: bool = False) -> Fraction:
    """Accuracy of the factor rule with best tokens, ties broken at random: the size of the last block decides."""
    r = n
    while r > 2:
        count = factor_count(Fraction(r - 1, r), r, factor, slip)
        if count == r:
            return Fraction(0)
        r -= count
    if r == 1:
        return Fraction(1)
    return Fraction(1) if factor_count(Fraction(1, 2), 2, factor, slip) == 1 else Fraction(1, 2)


def shuffle_entropy_bound(n: int, gamma: float) -> Sizes:
    """The blocks of the entropy bound: (j - 1) ln r <= gamma nats."""
    return sizes_of(n, lambda r: 1 + floor(gamma / log(r)) if r > 1 else 1)
