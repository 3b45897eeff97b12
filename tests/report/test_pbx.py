"""PBx and the area under a curve, on curves worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.report import pbx

FALLING = [(1.0, 90.0), (2.0, 80.0), (4.0, 60.0), (8.0, 20.0)]
CURVES = st.lists(
    st.tuples(st.integers(1, 64).map(lambda n: n / 4), st.integers(0, 100).map(float)), min_size=1, max_size=8
)


def test_measured_and_between() -> None:
    assert pbx.grid(FALLING, 70) == 2
    assert pbx.interpolated(FALLING, 70) == pytest.approx(3)
    assert pbx.interpolated(FALLING, 80) == 2
    assert pbx.interpolated(FALLING, 95) == pbx.grid(FALLING, 95) == 0
    assert pbx.interpolated(FALLING, 10) == 8  # it ends above


def test_the_last_crossing_counts() -> None:
    curve = [(1.0, 90.0), (2.0, 60.0), (3.0, 80.0), (4.0, 40.0)]
    assert pbx.last_crossing(curve, 70) == pytest.approx(3.25)
    assert pbx.last_crossing(curve, 30) is None


def test_the_published_rule_favours_adaptive_methods() -> None:
    assert pbx.upstream(FALLING, 70, "static") == 2
    assert pbx.upstream(FALLING, 70, "adaptive") == pytest.approx(3)
    assert pbx.upstream(FALLING, 10, "adaptive") == 8
    rises = [(1.0, 80.0), (2.0, 60.0), (4.0, 75.0)]
    # It takes the crossing though a faster point lies above; ours does not.
    assert pbx.upstream(rises, 70, "adaptive") == pytest.approx(1.5)
    assert pbx.interpolated(rises, 70) == 4


@given(CURVES, st.integers(1, 100))
def test_what_is_found_is_on_the_curve(curve: list[tuple[float, float]], x: int) -> None:
    found = pbx.interpolated(curve, x)
    assert found >= pbx.grid(curve, x)
    assert found <= max(speed for speed, _ in curve)
    assert (found == 0) == (max(score for _, score in curve) < x)
    assert pbx.interpolated(curve, x) >= pbx.interpolated(curve, x + 1)


def test_area_by_hand() -> None:
    flat = [(1.0, 50.0), (16.0, 50.0)]
    assert pbx.area(flat, 1, 16) == pytest.approx(50)
    assert pbx.area(flat, 1, 256) == pytest.approx(25)  # nothing beyond the fastest point
    assert pbx.area([(2.0, 80.0), (4.0, 40.0)], 1, 4) == pytest.approx(
        (80 + 60) / 2
    )  # the slowest point's score below it
    assert pbx.area(FALLING, 2, 8) == pytest.approx((70 + 40) / 2)
    assert pbx.area([(4.0, 60.0)], 1, 4) == pytest.approx(60)
    assert pbx.area([], 1, 4) == 0
    assert pbx.area([(2.0, 50.0), (2.0, 70.0), (8.0, 70.0)], 2, 8) == pytest.approx(70)


def test_score_at_a_speed() -> None:
    assert pbx.score_at(FALLING, 2) == 80
    assert pbx.score_at(FALLING, 2**0.5) == pytest.approx(85)
    assert pbx.score_at(FALLING, 0.9) is None
    assert pbx.score_at(FALLING, 9) is None


def test_accuracy_under_parallelism_by_hand() -> None:
    """W(78) = exp(-3/40), W(76) = exp(-6/40); 74 is more than 5 below the slowest point's 80."""
    curve = [(4.0, 76.0), (1.0, 80.0), (2.0, 78.0), (8.0, 74.0)]
    by_hand = 80 + (78 * 0.927743 + 80) / 2 + 2 * (76 * 0.860708 + 78 * 0.927743) / 2
    assert pbx.aup(curve, 80) == pytest.approx(by_hand, abs=1e-3)
    assert pbx.aup([(2.0, 50.0)], 80) == 100  # a single point is not weighed
    assert pbx.aup(curve, 100) < pbx.aup(curve, 80)
    assert pbx.aup([], 80) == pbx.aup([(1.0, 0.0)], 0.0) == 0
