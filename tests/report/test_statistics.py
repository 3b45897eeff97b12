"""Intervals and paired tests."""

from __future__ import annotations

import numpy as np
import pytest

from dlm.evaluation.intervals import wilson
from dlm.report.statistics import Interval, interval_of, mcnemar, mean_interval, paired, resampled_means

RNG = np.random.Generator(np.random.Philox(7))


def test_right_or_wrong_has_wilsons_interval() -> None:
    scores = np.array([1.0] * 15 + [0.0] * 133)
    found = interval_of(scores, np.arange(148))
    assert (found.low, found.high) == pytest.approx(wilson(15, 148))
    assert found.kind == "wilson"


def test_other_scores_have_a_bootstrap_of_about_two_standard_errors() -> None:
    scores = RNG.uniform(0, 1, 400)
    found = interval_of(scores, np.arange(400))
    half = 1.96 * scores.std() / 20
    assert found.kind == "bootstrap"
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=0.1)


def test_seeds_of_one_question_are_not_counted_as_questions() -> None:
    """Ten seeds that always agree tell no more than one."""
    each = np.array([1.0] * 30 + [0.0] * 30)
    ten = interval_of(np.repeat(each, 10), np.repeat(np.arange(60), 10))
    low, high = wilson(30, 60)
    assert ten.kind == "bootstrap"
    assert ten.high - ten.low == pytest.approx(high - low, rel=0.15)


def test_several_seeds_that_all_agree_keep_a_width() -> None:
    found = interval_of(np.ones(40), np.repeat(np.arange(10), 4))
    assert (found.low, found.high) == pytest.approx(wilson(10, 10))
    assert found.kind == "wilson over questions"


def test_a_mean_of_one_figure_is_that_figure() -> None:
    assert mean_interval([Interval(0.5, 0.4, 0.7, "x")]) == pytest.approx((0.5, 0.4, 0.7))


def test_a_mean_of_many_is_narrower() -> None:
    _, low, high = mean_interval([Interval(0.5, 0.4, 0.6, "x")] * 4)
    assert (low, high) == pytest.approx((0.45, 0.55))


def test_the_mean_over_tasks_covers_the_truth() -> None:
    """95 % intervals hold the true mean in about 95 % of made-up runs, with shares near 0 and 1 among them."""
    truth, n, runs = np.array([0.02, 0.5, 0.9, 0.99]), 50, 400
    held = 0
    for right in RNG.binomial(n, truth, (runs, 4)):
        parts = [Interval(r / n, *wilson(r, n), "wilson") for r in right.tolist()]
        _, low, high = mean_interval(parts)
        held += low <= truth.mean() <= high
    assert 0.92 <= held / runs <= 0.99


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (1, 1, 1.0), (0, 5, 2 / 32), (5, 0, 2 / 32), (1, 9, 22 / 1024), (2, 8, 112 / 1024)],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p)


def test_mcnemar_of_many() -> None:
    """Against the normal approximation with its correction for whole numbers: z = (200 - 1) / sqrt(10200)."""
    assert mcnemar(5000, 5200) == pytest.approx(0.0488, abs=1e-4)


def test_many_values_are_resampled_as_often_as_few() -> None:
    """A share of 0.3 of 20,000, one seed: too many to draw one by one; two standard errors are 0.0065."""
    values = np.repeat([1.0, 0.0], [6000, 14000])
    means = resampled_means(values, 2000)
    assert means.mean() == pytest.approx(0.3, abs=5e-4)
    assert means.std() == pytest.approx((0.3 * 0.7 / 20_000) ** 0.5, rel=0.1)


def test_paired_right_or_wrong() -> None:
    a = np.array([1.0, 1, 0, 0, 0, 0, 0, 1])
    b = np.array([1.0, 0, 1, 1, 1, 1, 1, 1])
    found = paired(a, b, np.arange(8), (np.full(8, 4.0), np.full(8, 2.0)))
    assert (found.only_a, found.only_b, found.test) == (1, 5, "mcnemar")
    assert found.p == pytest.approx(14 / 64)
    assert found.difference == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert (found.forwards_a, found.forwards_b) == (4, 2)


def test_paired_scores_and_seeds_use_the_bootstrap() -> None:
    a = RNG.uniform(0, 1, 200)
    same = paired(a, a, np.arange(200), (a, a))
    assert (same.test, same.p, same.difference) == ("bootstrap", 1.0, 0.0)
    better = paired(a, np.minimum(1, a + 0.2), np.arange(200), (a, a))
    assert better.p < 0.001
    assert better.low > 0
    seeds = paired(np.zeros(40), np.ones(40), np.repeat(np.arange(10), 4), (np.ones(40), np.ones(40)))
    assert (seeds.test, seeds.questions, seeds.n) == ("bootstrap", 10, 40)
