"""The validity sets as truth tables (ParallelBench, arXiv 2510.04767), and the short forms of the list tasks."""

import itertools

import pytest

from dlm import tasks
from dlm.tasks.base import Instance
from dlm.tasks.lists import render
from dlm.tasks.reading import loose_list
from dlm.tasks.rules import right_list
from dlm.tasks.waiting_line import NAMES, OPERATIONS

X = ["Anna", "Bob", "Cleo"]


def test_the_pool_has_64_different_names():
    assert len(NAMES) == len(set(NAMES)) == 64


# operation, everything that is right for X (w = Zoe), and near misses
RIGHT = {
    "shuffle": [list(p) for p in itertools.permutations(X) if list(p) != X],
    "replace_random": [["Zoe", "Bob", "Cleo"], ["Anna", "Zoe", "Cleo"], ["Anna", "Bob", "Zoe"]],
    "insert_random": [["Zoe", *X], ["Anna", "Zoe", "Bob", "Cleo"], ["Anna", "Bob", "Zoe", "Cleo"], [*X, "Zoe"]],
    "remove_random": [["Bob", "Cleo"], ["Anna", "Cleo"], ["Anna", "Bob"]],
}
CANDIDATES = [list(y) for n in range(5) for y in itertools.product([*X, "Zoe", "Max"], repeat=n)]


@pytest.mark.parametrize("operation", list(RIGHT))
def test_the_validity_set_is_exactly_this(operation):
    accepted = [y for y in CANDIDATES if right_list(operation, X, "Zoe", [], y)]
    assert sorted(accepted) == sorted(RIGHT[operation])


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o not in RIGHT])
def test_operations_with_one_answer_accept_one(operation):
    task = tasks.get(f"waiting_line/{operation}")
    instance = task.instance(3)
    target = loose_list(instance.target)
    accepted = [y for y in itertools.permutations(target) if task.score(instance, render(list(y)))]
    assert accepted == [tuple(target)]
    assert task.score(instance, render([*target, target[-1]])) == 0


def test_index_operations_count_from_one():
    """Every index target is what Python's own list operations make of the prompt."""
    for i in range(60):
        for operation in ("replace_index", "insert_index", "remove_index"):
            instance = tasks.get(f"waiting_line/{operation}").instance(i)
            head = instance.prompt.split(":", 1)[0]
            place = int(next(c for c in head if c.isdigit())) - 1
            expected = list(instance.meta["x"])
            if operation == "remove_index":
                del expected[place]
            else:
                name = head.split('"')[1]
                if operation == "replace_index":
                    expected[place] = name
                else:
                    expected.insert(place, name)
            assert loose_list(instance.target) == expected


def test_the_loose_score_forgives_missing_quotes():
    task = tasks.get("waiting_line/copy")
    instance = Instance("0", task.name, "", render(X), {"x": X})
    assert task.score(instance, "[Anna, Bob, Cleo]") == 1
    assert task.score(instance, "[Anna, Cleo, Bob]") == 0
