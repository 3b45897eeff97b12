"""Order statistics against their definitions, pair by pair and step by step."""

from __future__ import annotations

from math import isnan, nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.report.order import histogram, order_of, orders_of

ROWS = st.lists(st.lists(st.integers(-1, 5), min_size=6, max_size=6), min_size=1, max_size=5)


def tau_b(steps: list[int]) -> float:
    pairs = [(a, b) for i, a in enumerate(steps) for b in steps[i + 1 :]]
    balance = sum((b > a) - (b < a) for a, b in pairs)
    unequal = sum(a != b for a, b in pairs)
    return balance / sqrt(len(pairs) * unequal) if unequal else nan


def rho(steps: list[int]) -> float:
    ranks = [sum(b < a for b in steps) + (steps.count(a) - 1) / 2 for a in steps]
    x = [i - (len(steps) - 1) / 2 for i in range(len(steps))]
    y = [r - (len(steps) - 1) / 2 for r in ranks]
    size = sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / size if size else nan


def walked(steps: list[int]) -> tuple[float, float]:
    """AR-ness and left-to-right by walking through the steps with the set of open positions."""
    open_now, alone, joint = set(range(len(steps))), 0, 0
    for step in sorted(set(steps)):
        chosen = {i for i, s in enumerate(steps) if s == step}
        alone += min(open_now) in chosen
        open_now -= chosen
        joint += sum(not open_now or i < min(open_now) for i in chosen)
    return (alone / len(steps), joint / len(steps)) if steps else (nan, nan)


def same(a: float, b: float) -> bool:
    return (isnan(a) and isnan(b)) or a == pytest.approx(b, abs=1e-12)


@given(ROWS)
def test_whole_rows_agree_with_the_definitions(rows: list[list[int]]) -> None:
    order = order_of(np.array(rows, dtype=np.int32))
    for i, row in enumerate(rows):
        kept = [step for step in row if step >= 0]
        assert same(order.kendall[i], tau_b(kept))
        assert same(order.spearman[i], rho(kept))
        assert same(order.ar_ness[i], walked(kept)[0])
        assert same(order.left_to_right[i], walked(kept)[1])


@given(ROWS, st.integers(0, 6))
def test_content_is_the_first_committed_positions(rows: list[list[int]], first: int) -> None:
    order = order_of(np.array(rows, dtype=np.int32), np.full(len(rows), first))
    for i, row in enumerate(rows):
        kept = [step for step in row if step >= 0][:first]
        assert same(order.kendall[i], tau_b(kept))
        assert same(order.left_to_right[i], walked(kept)[1])


def test_many_tables_at_once_are_the_same_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm.report.order.BATCH", 5)
    rng = np.random.Generator(np.random.Philox(1))
    shapes = ((3, 6), (2, 4), (4, 6), (0, 6), (1, 6), (3, 4))
    tables = [rng.integers(-1, 5, shape).astype(np.int32) for shape in shapes]
    firsts = [rng.integers(0, 7, len(table)) for table in tables]
    for table, first, (whole, content) in zip(tables, firsts, orders_of(tables, firsts), strict=True):
        for found, alone in ((whole, order_of(table)), (content, order_of(table, first))):
            for name in ("kendall", "spearman", "ar_ness", "left_to_right"):
                assert np.array_equal(getattr(found, name), getattr(alone, name), equal_nan=True)


def test_known_orders() -> None:
    steps = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=np.int32)
    order = order_of(steps)
    assert order.kendall[:2].tolist() == [1.0, -1.0]
    assert order.spearman[:2].tolist() == [1.0, -1.0]
    assert order.kendall[2] == pytest.approx(4 / sqrt(6 * 4))
    assert isnan(order.kendall[3])
    assert order.ar_ness.tolist() == [1.0, 0.25, 0.5, 0.25]
    assert order.left_to_right.tolist() == [1.0, 0.25, 1.0, 1.0]


def test_steps_beyond_16_bits() -> None:
    assert order_of(np.array([[70000, 40000, 1]], dtype=np.int32)).kendall.tolist() == [-1.0]


def test_histogram_counts_what_each_step_fixed() -> None:
    assert histogram(np.array([[0, 0, 2, -1], [1, -1, -1, -1]], dtype=np.int32)).tolist() == [[2, 0, 1], [0, 1, 0]]


def test_nothing_at_all() -> None:
    assert isnan(order_of(np.full((1, 3), -1, dtype=np.int32)).ar_ness[0])
    assert len(order_of(np.zeros((0, 0), dtype=np.int32)).kendall) == 0
