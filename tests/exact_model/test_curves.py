"""The curves that a report draws: against published means, and against every course a decoder can take."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dlm.commands import oracle
from dlm.exact_model import closed_forms as forms
from dlm.exact_model import trajectories
from dlm.exact_model.answers import right_answers
from dlm.exact_model.curves import MOST, CurvePoint, accuracy, curves
from dlm.report.plots_speed import read_forms


def points(task: str, decoding: str) -> list[CurvePoint]:
    found = [point for point in curves([task]) if point.decoding == decoding]
    assert [point.k for point in found] == list(range(1, MOST + 1))
    assert {point.task for point in found} == {f"waiting_line/{task}"}
    return found


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_a_shuffle_that_must_differ_is_what_the_courses_say(n: int, k: int) -> None:
    """By symmetry the order of the places does not matter."""
    answers, sizes = right_answers("shuffle", [str(i) for i in range(n)], "", ()), forms.blocks_of(n, k)
    assert forms.other_shuffle_in(sizes) == trajectories.drawn(answers, sizes, "left_to_right")
    assert forms.other_shuffle_in(sizes, best=True) == trajectories.greedy(answers, sizes, "left_to_right")


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_in_one_step_it_is_the_formula_for_one_step(n: int) -> None:
    assert accuracy("shuffle", "drawn", n, MOST)[0] == forms.other_shuffle(n)
    assert accuracy("insert_random", "drawn", n, MOST)[0] == forms.insert(n)
    assert accuracy("remove_random", "drawn", n, MOST)[0] == forms.remove(n)


def test_means_over_the_lengths() -> None:
    """Figures worked out by hand; the published shuffle may equal the given list, which changes little here."""
    drawn = points("replace_random", "drawn")
    assert [drawn[k - 1].accuracy for k in (1, 2, 3, 7)] == pytest.approx([1, 0.791884, 0.633155, 0.419449], abs=1e-6)
    assert points("insert_random", "drawn")[6].accuracy == pytest.approx(0.112159, abs=1e-6)
    assert points("remove_random", "drawn")[6].accuracy == pytest.approx(0.686779, abs=1e-6)
    shuffle = [point.accuracy for point in points("shuffle", "drawn")]
    assert shuffle[0] == 1
    assert [shuffle[1], shuffle[2], shuffle[6]] == pytest.approx([0.471875, 0.240170, 0.092451], abs=2e-3)
    assert [p.accuracy for p in points("replace_random", "best")][:4] == [1, 0.75, 0.375, 0.375]
    assert {p.accuracy for p in curves(["copy"])} == {1.0}
    assert curves(["sudoku", "latin_square"]) == []


def test_the_speed_is_what_a_run_over_these_lists_measures() -> None:
    """Two at a time, lists of 3 to 6 slots take 2, 2, 3 and 3 steps; an insertion has a slot more."""
    assert points("shuffle", "drawn")[1].tokens_per_forward == pytest.approx((3 / 2 + 4 / 2 + 5 / 3 + 6 / 3) / 4)
    assert points("insert_random", "best")[6].tokens_per_forward == pytest.approx((4 + 5 + 6 + 7) / 4)


def test_the_command_writes_what_the_report_reads(tmp_path: Path) -> None:
    assert oracle.run(["task=[remove_random,copy]", "n=3", "rollouts=20", f"out={tmp_path}"]) == 0
    path = tmp_path / "closed_forms.csv"
    lines = list(csv.DictReader(path.open(encoding="utf-8")))
    assert len(lines) == len(read_forms(path)) == 4 * MOST
    assert list(lines[0]) == ["task", "decoding", "k", "tokens_per_forward", "accuracy"]
    assert {(form.task, form.decoding) for form in read_forms(path)} == {
        (f"waiting_line/{task}", decoding) for task in ("remove_random", "copy") for decoding in ("drawn", "best")
    }


def test_grids_have_no_curve(tmp_path: Path) -> None:
    assert oracle.run(["task=sudoku", "n=4", "rollouts=5", f"out={tmp_path}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"oracle.csv", "oracle.json"}
