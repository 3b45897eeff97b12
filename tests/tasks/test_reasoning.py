"""Additions, word problems, grids and stories: the answers are really right, and the scorers notice when not."""

import re

import pytest

from dlm import tasks
from dlm.tasks.arithmetic import written_out
from dlm.tasks.puzzles import all_grids, solutions


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (47, 85, "7+5=12,4+8+1=13,132"),
        (12, 34, "2+4=6,1+3=4,46"),
        (95, 5, "5+5=10,9+0+1=10,100"),
        (999, 999, "9+9=18,9+9+1=19,9+9+1=19,1998"),
    ],
)
def test_carries_are_written_out(a, b, text):
    assert written_out(a, b) == text


def test_every_written_equation_holds():
    for name in ("arithmetic/addition", "math/word_problem"):
        for i in range(200):
            target = tasks.get(name).instance(i, "train").target
            equations = re.findall(r"([\d+-]+)=(\d+)", target)
            assert equations
            for left, right in equations:
                terms = [int(term) for term in re.findall(r"[+-]?\d+", left)]
                assert sum(terms) == int(right), target


def test_addition_reads_the_last_number():
    task = tasks.get("arithmetic/addition")
    instance = task.instance(0)
    total = instance.meta["sum"]
    assert task.score(instance, str(total)) == 1
    assert task.score(instance, f"nonsense,{total}") == 1
    assert task.score(instance, f"{total},{total + 1}") == 0


def test_word_problems_need_the_stated_answer():
    task = tasks.get("math/word_problem")
    for i in range(100):
        instance = task.instance(i)
        answer = instance.meta["answer"]
        assert answer >= 0
        assert task.score(instance, f"The answer is {answer}.") == 1
        assert task.score(instance, f"The answer is {answer}0.") == 0
        assert task.score(instance, str(answer)) == 0


def test_there_are_288_sudoku_grids():
    assert len(set(all_grids())) == 288


def test_sudokus_have_one_solution_and_4_to_8_holes():
    task = tasks.get("puzzle/sudoku")
    for i in range(60):
        instance = task.instance(i)
        puzzle = instance.meta["puzzle"]
        assert 4 <= sum(not cell for row in puzzle for cell in row) <= 8
        assert len(solutions(puzzle)) == 1
        spaced = instance.target.replace("\n", " \n").replace("", " ")
        assert task.score(instance, spaced) == 1
        assert task.score(instance, instance.target[::-1]) == 0 or instance.target == instance.target[::-1]


def test_sudoku_holds_whole_grids_out():
    task = tasks.get("puzzle/sudoku")
    trained, held_out = ({task.instance(i, s).target for i in range(300)} for s in ("train", "test"))
    assert not trained & held_out


def test_latin_squares_of_any_kind_are_accepted():
    task = tasks.get("puzzle/latin_square")
    instance = task.instance(0)
    a, b, c, d = instance.meta["symbols"]
    klein = [[a, b, c, d], [b, a, d, c], [c, d, a, b], [d, c, b, a]]
    assert task.score(instance, "\n".join(",".join(row) for row in klein)) == 1
    klein[3] = klein[0]
    assert task.score(instance, "\n".join(",".join(row) for row in klein)) == 0
    assert task.score(instance, "\n".join("ZYXW")) == 0


def test_a_story_must_be_consistent():
    task = tasks.get("text/story")
    instance = task.instance(0)
    place = re.match(r"\w+ went to the (\w+)", instance.target)[1]
    other = "park" if place != "park" else "forest"
    assert task.score(instance, instance.target.replace(place, other)) == 1
    assert task.score(instance, instance.target.replace(place, other, 1)) == 0
    assert task.score(instance, instance.target.replace(instance.meta["animal"], "whale")) == 0
