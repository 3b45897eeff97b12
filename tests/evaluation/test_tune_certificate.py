"""The promise of ``dlm tune``: bets that cannot win where a setting loses too much, and the questions they take."""

from __future__ import annotations

from itertools import product
from math import ceil, exp, log

import numpy as np
import pytest

from dlm.evaluation.tuning.certificate import (
    CERTIFIED,
    OPEN,
    REJECTED,
    UNDECIDED,
    interval,
    log_wealth,
    needed,
    planned,
    prospect,
    shortlist,
    verdict,
)
from scripts.tune_promise import promise


def zeros(n: int) -> np.ndarray:
    return np.zeros(n)


@pytest.mark.parametrize("margin", [0.02, 0.3])
@pytest.mark.parametrize("choosing", [[], [0.0] * 9, [0.0, 1.0, -1.0, 0.5]])
def test_where_the_loss_is_the_margin_the_money_stays_what_it_is_on_average(margin: float, choosing: list) -> None:
    """All sequences of six answers that are lost (1), won (-1) or neither, with a mean loss of exactly the margin."""
    law = {1.0: margin + 0.1, -1.0: 0.1, 0.0: 0.8 - margin}
    total = 0.0
    for losses in product(law, repeat=6):
        chance = np.prod([law[loss] for loss in losses])
        total += chance * exp(log_wealth(np.array(choosing), np.array(losses), margin)[-1])
    assert total == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("choosing", [0, 20, 96])
@pytest.mark.parametrize(("margin", "level"), [(0.02, 0.0125), (0.1, 0.05), (0.3, 0.3)])
def test_how_many_questions_it_takes_is_how_many_it_takes(margin: float, level: float, choosing: int) -> None:
    n = needed(margin, level, choosing)
    money = log_wealth(zeros(choosing), zeros(n), margin)
    assert money[-1] >= log(1 / level) > money[-2]
    # No test could do with fewer: the exact binomial one takes log(level) / log(1 - margin).
    assert n >= planned(margin, level, 0, 0) >= 0.99 * log(level) / log(1 - margin)
    assert planned(margin, level, margin / 4, 0) > planned(margin, level, 0, 0)
    assert planned(margin, level, margin, 0) == planned(margin, level, 0.5, 0.1) == float("inf")


def test_a_verdict_is_that_of_the_first_question_that_decides() -> None:
    level, most = 0.05, 200
    n = needed(0.1, level, 10)
    found = verdict(zeros(10), zeros(most), 0.1, level, most)
    assert (found.status, found.n, found.lost, found.won) == (CERTIFIED, n, 0, 0)
    assert found.log_wealth >= log(1 / level) and found.high <= 0.1
    spoilt = np.concatenate([zeros(n), np.ones(most - n)])  # what comes behind it is not looked at
    assert verdict(zeros(10), spoilt, 0.1, level, most) == found
    assert verdict(zeros(10), zeros(n - 1), 0.1, level, most).status == OPEN
    assert verdict(zeros(10), np.ones(most), 0.1, level, most).status == REJECTED
    assert verdict(zeros(10), zeros(5), 0.1, level, n - 1).status == UNDECIDED
    assert verdict(zeros(10), zeros(0), 0.1, level, most).status == OPEN


def test_scores_between_right_and_wrong() -> None:
    half = np.tile([0.25, -0.25], 150)
    assert verdict(half[:20], half, 0.1, 0.05, 300).status == CERTIFIED
    low, high = interval(half)
    assert low < 0 < high < 0.1


def test_intervals_hold_the_mean() -> None:
    rng = np.random.default_rng(3)
    outside = 0
    for _ in range(100):
        low, high = interval((rng.random(150) < 0.1).astype(float) - (rng.random(150) < 0.05))
        outside += not low <= 0.05 <= high
    assert outside <= 5


def test_the_shortlist_is_spread_over_what_is_good() -> None:
    assert shortlist([5, 1, 4, 2, 3], [1.5, 1.2, 1.5, 0.2, 1.1], 3) == [1, 4, 0]
    assert shortlist([5, 1, 4], [0.3, 0.1, 0.9], 2) == [2, 0]  # none is good: what is most promising
    assert shortlist([], [], 4) == []
    assert shortlist([2, 1], [2, 2], 1) == [1]


def test_prospects() -> None:
    most = ceil(2.5 * needed(0.02, 0.0125, 96))
    lost = [prospect(np.array([1.0] * n + [0.0] * (96 - n)), 0.02, 0.0125, most) for n in (0, 1, 5)]
    assert lost[0] > 1 > lost[1] > lost[2]


@pytest.mark.parametrize(("good", "worst"), [(0.0, 1.001), (0.2, 2.0)])
def test_the_promise_is_kept(good: float, worst: float) -> None:
    """`python scripts/tune_promise.py` tries it 1,000 times: cheap samplers that lose just too much, and some good."""
    found = promise(120, good=good, worst=worst)
    assert found.broken <= found.delta * found.tunings
    assert (found.kept > 0.75 * found.tunings) == (good > 0)
