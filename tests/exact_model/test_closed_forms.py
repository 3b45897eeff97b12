"""The formulas against tables worked out by hand (ParallelBench, arXiv 2510.04767, has some of them), and against
enumeration without a decoder."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dlm.exact_model import adaptive, trajectories
from dlm.exact_model import closed_forms as forms
from dlm.exact_model.answers import latin_squares, permutations, right_answers

F = Fraction
X = ("a", "b", "c", "d", "e", "f")
OPEN = ("shuffle", "replace_random", "insert_random", "remove_random")


def answers(operation: str, n: int) -> tuple[tuple[str, ...], ...]:
    return right_answers(operation, X[:n], "w", ())


def orders(n: int) -> tuple[tuple[str, ...], ...]:
    return permutations(X[:n])


def whole(operation: str, n: int) -> tuple[int, ...]:
    return (len(answers(operation, n)[0]),)


# n: shuffle bits and accuracy, scored, bench law, replace, insert, remove, each bits and accuracy.
ONE_STEP = {
    3: (2.1699, 0.222222, 0.185185, 2.2439, 0.224000, 1.1699, 0.444444, 2.6226, 0.187500, 0.2516, 0.888889),
    4: (3.4150, 0.093750, 0.089844, 3.4596, 0.091852, 1.2451, 0.421875, 3.3858, 0.122880, 0.6226, 0.750000),
    5: (4.7027, 0.038400, 0.038080, 4.7138, 0.038137, 1.2877, 0.409600, 4.1366, 0.082305, 1.0638, 0.614400),
    6: (6.0179, 0.015432, 0.015411, 6.0199, 0.015412, 1.3152, 0.401878, 4.8800, 0.055953, 1.5517, 0.493827),
}


@pytest.mark.parametrize("n", ONE_STEP)
def test_one_step_accuracies_and_correlations_are_those_of_the_table(n: int) -> None:
    bits = (forms.shuffle_bits, forms.other_shuffle_bits, forms.replace_bits, forms.insert_bits, forms.remove_bits)
    rates = (forms.shuffle, forms.other_shuffle, forms.replace, forms.insert, forms.remove)
    row = ONE_STEP[n]
    assert [f(n) for f in bits] == pytest.approx([row[0], row[3], row[5], row[7], row[9]], abs=5.1e-5)
    assert [float(f(n)) for f in rates] == pytest.approx([row[1], row[4], row[6], row[8], row[10]], abs=5.1e-7)
    assert float(forms.shuffle_scored(n)) == pytest.approx(row[2], abs=5.1e-7)


@pytest.mark.parametrize(
    ("rate", "mean"),
    [(forms.shuffle, 0.092451), (forms.shuffle_scored, 0.082130), (forms.replace, 0.419449), (forms.insert, 0.112159),
     (forms.remove, 0.686779)],
)  # fmt: skip
def test_means_over_the_four_lengths(rate, mean: float) -> None:
    assert float(sum(rate(n) for n in range(3, 7)) / 4) == pytest.approx(mean, abs=5.1e-7)


def test_one_step_values_of_long_lists() -> None:
    rates = (forms.shuffle, forms.replace, forms.insert, forms.remove)
    assert [float(f(10)) for f in rates] == pytest.approx([3.6288e-4, 0.387420, 0.013024, 0.185795], rel=1e-4)
    assert [float(f(15)) for f in rates] == pytest.approx([2.9863e-6, 0.380640, 0.002323, 0.048927], rel=3e-4)


def test_items_of_two_tokens() -> None:
    shuffles = [float(forms.shuffle(n, 2)) for n in range(3, 7)]
    assert shuffles == pytest.approx([0.008230, 3.6621e-4, 1.2288e-5, 3.3076e-7], rel=1e-4)
    replaced = [float(forms.replace(n, 2)) for n in range(3, 7)]
    assert replaced == pytest.approx([0.065844, 0.044495, 0.033554, 0.026918], abs=5.1e-7)
    for n in range(3, 5):
        for formula, found in ((forms.shuffle_bits, orders(n)), (forms.replace_bits, answers("replace_random", n))):
            doubled = [tuple(f"{t}{half}" for t in y for half in "12") for y in found]
            assert formula(n, 2) == pytest.approx(trajectories.lost_bits(doubled, [range(2 * n)]))


def test_latin_squares() -> None:
    assert {n: len(latin_squares("ABCD"[:n])) for n in (3, 4)} == forms.LATIN_SQUARES
    assert [float(forms.latin(n)) for n in (3, 4)] == pytest.approx([6.0966e-4, 1.3411e-7], rel=1e-4)
    assert [forms.latin_bits(n) for n in (3, 4)] == pytest.approx([10.6797, 22.8301], abs=5.1e-5)


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_one_step_formulas_are_what_enumeration_gives(n: int) -> None:
    found = {
        "shuffle": forms.other_shuffle(n), "replace_random": forms.replace(n), "insert_random": forms.insert(n),
        "remove_random": forms.remove(n),
    }  # fmt: skip
    for operation, rate in found.items():
        assert trajectories.drawn(answers(operation, n), whole(operation, n)) == rate
    bits = (forms.other_shuffle_bits, forms.replace_bits, forms.insert_bits, forms.remove_bits)
    for operation, formula in zip(OPEN, bits, strict=True):
        all_at_once = [range(len(answers(operation, n)[0]))]
        assert formula(n) == pytest.approx(trajectories.lost_bits(answers(operation, n), all_at_once))


# (n, k): shuffle, replace, replace 2^-bits, insert random and left to right, remove the same.
SCHEDULES = {
    (3, 2): (F(2, 3), F(8, 9), 0.839947, 0.630208, 0.437500, 0.888889, 0.888889),
    (4, 2): (F(3, 8), F(21, 32), 0.649519, 0.692000, 0.466667, 0.895833, 0.875000),
    (4, 3): (F(3, 8), F(27, 32), 0.740292, 0.460000, 0.272000, 0.750000, 0.750000),
    (5, 2): (F(8, 15), F(8, 9), 0.856258, 0.683677, 0.409722, 0.870370, 0.826667),
    (5, 3): (F(6, 25), F(16, 25), 0.640000, 0.445328, 0.230453, 0.760000, 0.720000),
    (6, 2): (F(5, 16), F(845, 1152), 0.725248, 0.716642, 0.428571, 0.874299, 0.819444),
    (6, 3): (F(10, 81), F(1175, 1944), 0.597683, 0.496103, 0.237609, 0.750206, 0.691358),
}


@pytest.mark.parametrize(("n", "k"), SCHEDULES)
def test_schedules_are_those_of_the_table(n: int, k: int) -> None:
    sizes, row = forms.blocks_of(n, k), SCHEDULES[n, k]
    assert (forms.shuffle_in(sizes), forms.replace_in(sizes)) == row[:2]
    assert forms.shuffle_in(sizes) == pytest.approx(2 ** -forms.shuffle_in_bits(sizes))
    assert 2 ** -forms.replace_in_bits(sizes) == pytest.approx(row[2], abs=5.1e-7)
    found = [
        float(trajectories.drawn(answers(operation, n), forms.blocks_of(slots, k), order))
        for operation, slots in (("insert_random", n + 1), ("remove_random", n - 1))
        for order in ("random", "left_to_right")
    ]
    assert found == pytest.approx(row[3:], abs=5.1e-7)


@pytest.mark.parametrize("n", [3, 4])
def test_schedule_formulas_are_what_enumeration_gives_in_either_order(n: int) -> None:
    for k in range(1, n + 1):
        sizes = forms.blocks_of(n, k)
        for order in ("random", "left_to_right"):
            assert trajectories.drawn(orders(n), sizes, order) == forms.shuffle_in(sizes)
            assert trajectories.drawn(answers("replace_random", n), sizes, order) == forms.replace_in(sizes)


def test_means_of_schedules() -> None:
    for k, shuffled, replaced in ((2, 0.471875, 0.791884), (3, 0.240170, 0.633155)):
        lengths = [forms.blocks_of(n, k) for n in range(3, 7)]
        assert float(sum(map(forms.shuffle_in, lengths)) / 4) == pytest.approx(shuffled, abs=5.1e-7)
        assert float(sum(map(forms.replace_in, lengths)) / 4) == pytest.approx(replaced, abs=5.1e-7)


def test_larger_steps_first() -> None:
    assert [forms.larger_first(n, t) for n, t in ((4, 3), (5, 4), (6, 4))] == [(2, 1, 1), (2, 1, 1, 1), (2, 2, 1, 1)]
    rows = {(4, 3): (0.75, 0.9375), (5, 4): (0.8, 0.96), (6, 4): (0.625, 0.928819), (6, 5): (0.833333, 0.972222)}
    for (n, steps), row in rows.items():
        sizes = forms.larger_first(n, steps)
        assert (float(forms.shuffle_in(sizes)), float(forms.replace_in(sizes))) == pytest.approx(row, abs=5.1e-7)


def test_best_partitions_of_six() -> None:
    best = [forms.best_sizes(6, steps, forms.shuffle_in_bits) for steps in range(1, 7)]
    assert [bits for bits, _ in best] == pytest.approx([6.0179, 2.8480, 1.4330, 0.6781, 0.2630, 0], abs=5.1e-5)
    assert [sizes for _, sizes in best[1:4]] == [(4, 2), (3, 2, 1), (2, 2, 1, 1)]
    best = [forms.best_sizes(6, steps, forms.replace_in_bits) for steps in range(1, 7)]
    assert [bits for bits, _ in best] == pytest.approx([1.3152, 0.6651, 0.2834, 0.1301, 0.0484, 0], abs=5.1e-5)
    assert [sizes for _, sizes in best[1:3]] == [(5, 1), (3, 2, 1)]


def test_equal_blocks_are_not_the_best_and_less_correlation_is_not_more_accuracy() -> None:
    assert float(forms.shuffle_in((4, 2))) == pytest.approx(0.1389, abs=5.1e-5)
    assert forms.shuffle_in((4, 2)) > forms.shuffle_in((3, 3))
    assert forms.replace_in_bits((3, 2, 1)) < forms.replace_in_bits((4, 1, 1))
    rates = [float(forms.replace_in(sizes)) for sizes in ((3, 2, 1), (4, 1, 1))]
    assert rates == pytest.approx([0.8616, 0.8681], abs=5.1e-5)


@pytest.mark.parametrize("n", [3, 4])
def test_greedy_formulas_are_what_enumeration_gives(n: int) -> None:
    for k in range(1, n + 1):
        sizes = forms.blocks_of(n, k)
        assert trajectories.greedy(orders(n), sizes) == forms.shuffle_in(sizes)
        for order in ("random", "left_to_right", "confidence"):
            assert trajectories.greedy(answers("replace_random", n), sizes, order) == forms.replace_greedy_in(sizes)


def test_greedy_insertion_is_that_of_the_table() -> None:
    table = {
        (2, "random"): (0.583333, 0.766667, 0.705556, 0.795238),
        (2, "left_to_right"): (0.5, 0.666667, 0.5, 0.666667),
        (2, "confidence"): (0.5, 1, 0.5, 1),
        (3, "random"): (0.5, 0.55, 0.516667, 0.65),
        (3, "left_to_right"): (0, 0.25, 0.333333, 0),
        (3, "confidence"): (1, 0.5, 0.333333, 1),
        (7, "random"): (0, 0, 0, 0),
    }
    for (k, order), row in table.items():
        found = [
            float(trajectories.greedy(answers("insert_random", n), forms.blocks_of(n + 1, k), order))
            for n in range(3, 7)
        ]
        assert found == pytest.approx(row, abs=5.1e-7), (k, order)


def test_greedy_removal_is_right_in_one_step_although_its_tokens_depend_on_each_other() -> None:
    for n in range(3, 7):
        assert trajectories.greedy(answers("remove_random", n), whole("remove_random", n)) == 1
        assert forms.remove_bits(n) > 0.25


def test_greedy_shuffle_under_the_law_that_leaves_the_given_order_out() -> None:
    rates = [trajectories.greedy(answers("shuffle", n), sizes) for n, sizes in ((3, (3,)), (4, (4,)), (3, (2, 1)))]
    assert rates == [F(1, 4), F(1, 9), F(3, 4)]
    assert float(trajectories.greedy(answers("shuffle", 4), (2, 2))) == pytest.approx(0.388889, abs=5.1e-7)


def test_thresholds_on_a_shuffle_of_six() -> None:
    gammas = [F(g) for g in ("0.1", "0.2", "0.25", "0.3", "0.4", "0.5", "0.6")]
    both = {strict: [adaptive.shuffle_threshold(6, g, strict) for g in gammas] for strict in (False, True)}
    rates = {strict: [float(rate) for rate, _ in row] for strict, row in both.items()}
    assert rates[False] == pytest.approx([0.0154, 0.0384, 0.0938, 0.2222, 0.5, 0.5, 1], abs=5.1e-5)
    assert rates[True] == pytest.approx([0.0154, 0.0938, 0.2222, 0.2222, 0.5, 1, 1], abs=5.1e-5)
    assert [forwards for _, forwards in both[False]] == [1, 2, 3, 4, 5, 5, 6]
    assert [forwards for _, forwards in both[True]] == [1, 3, 4, 4, 5, 6, 6]


def test_thresholds_on_a_replacement() -> None:
    gammas = [F(g) for g in ("0.5", "0.6", "0.7", "0.8", "0.9", "1")]
    means = {
        strict: [sum(adaptive.replace_threshold(n, g, strict)[0] for n in range(3, 7)) / 4 for g in gammas]
        for strict in (False, True)
    }
    assert means[False] == [0, 0, F(1, 4), F(1, 2), 1, 1]
    assert means[True] == [0, 0, F(1, 4), F(3, 4), 1, 1]
    assert [adaptive.replace_threshold_most(n, F("0.7")) for n in (3, 4)] == [1, F(27, 64)]
    table = {
        3: (0.592593, 0.703704, 1, 1, 1), 4: (0.559028, 0.669705, 0.683594, 1, 1),
        5: (0.546239, 0.655036, 0.670295, 0.672320, 1), 6: (0.538966, 0.646349, 0.662347, 0.664891, 1),
    }  # fmt: skip
    for n, row in table.items():
        found = [float(adaptive.replace_threshold_drawn(n, g)) for g in gammas[:5]]
        assert found == pytest.approx(row, abs=5.1e-7)


def test_the_factor_rule_and_its_published_slip() -> None:
    factors = [F(f) for f in ("0.7", "1.0", "1.3", "1.6", "1.9")]
    half = F(1, 2)
    for n in range(3, 7):
        assert [adaptive.shuffle_factor(n, f)[0] for f in factors] == [1, 1, 1, half, half]
        assert [adaptive.shuffle_factor(n, f, slip=True) for f in factors] == [(half, n - 1)] * 5
        ideal = [1, 1, 1, 0, 0] if n == 3 else [1, 1, 0, 0, 0]
        assert [adaptive.replace_factor(n, f) for f in factors] == ideal
        assert [adaptive.replace_factor(n, f, slip=True) for f in factors] == [half, 0, 0, 0, 0]


def test_the_entropy_bound_on_a_shuffle_of_six() -> None:
    sizes = {gamma: adaptive.shuffle_entropy_bound(6, gamma) for gamma in (0.5, 0.7, 1.2, 1.5, 2.0)}
    assert sizes == {
        0.5: (1,) * 6, 0.7: (1, 1, 1, 1, 2), 1.2: (1, 1, 1, 2, 1), 1.5: (1, 1, 2, 2), 2.0: (2, 2, 2),
    }  # fmt: skip
    rates = [float(forms.shuffle_in(s)) for s in sizes.values()]
    assert rates == pytest.approx([1, 0.5, 0.6667, 0.375, 0.3125], abs=5.1e-5)


def test_accuracy_is_not_monotone_in_the_size_of_blocks_but_the_least_correlation_is() -> None:
    rates = [forms.replace_in(forms.blocks_of(4, k)) for k in (2, 3)]
    assert rates[0] < rates[1]
    least = [forms.best_sizes(4, steps, forms.replace_in_bits)[0] for steps in range(1, 5)]
    assert least == sorted(least, reverse=True)
