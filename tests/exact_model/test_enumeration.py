"""The decode loop against the formulas, in fractions: every course it can take, for lists of three and four."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest

from dlm.commands.oracle import with_samplers
from dlm.engine.sampler import Sampler
from dlm.exact_model import list_question, ways
from dlm.exact_model.cells import Cell, CellGroup, cells
from tests.exact_model.enumeration import Engine, Outcome

READERS = ("threshold", "factor", "eb")  # their choice depends on the proposed tokens
OPEN = ("shuffle", "replace_random", "insert_random", "remove_random")


def enumerated(cell: Cell, sampler: Sampler) -> Outcome:
    return Engine(cell.group.question(), sampler, sampler.name in READERS).outcome()


def hold(found: list[tuple[Cell, Sampler]]) -> None:
    """Every cell comes out exactly, and in the forwards it says."""
    wrong = []
    for cell, sampler in found:
        outcome = enumerated(cell, sampler)
        assert outcome.all == 1
        forwards = cell.forwards is None or set(outcome.forwards) <= {cell.forwards}
        if outcome.right != cell.accuracy or not forwards:
            wrong.append((cell.group, cell.way, outcome.right, cell.accuracy, outcome.forwards))
    assert not wrong


def wanted(task: str, n: int, names: Sequence[str] = ()) -> list[tuple[Cell, Sampler]]:
    """The cells, or those decoded in these ways."""
    # The scorer that refuses the given order is not the model's law; items of two tokens make too many courses.
    found = [c for c in cells([task], [n]) if not c.way.endswith(("scored", "2 tokens"))]
    return with_samplers([c for c in found if not names or c.way in names])


@pytest.mark.parametrize("task", OPEN)
def test_cells_of_three_items_are_exact(task: str) -> None:
    gammas = (" 0.1", " 0.2", " 0.25", " 0.6", " 0.75", " 0.8", " 0.9")  # decoded like others
    hold([(cell, sampler) for cell, sampler in wanted(task, 3) if not cell.way.endswith(gammas)])


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("replace_random", ("drawn, 3 at a time", "drawn, p >= 0.7", "best, factor 1.3")),
        ("insert_random", ("best, 3 at a time, surest first", "drawn, 3 at a time, left to right")),
        ("remove_random", ("drawn, 2 at a time", "best, all at once")),
        ("shuffle", ("best, 2 at a time, lowest id",)),
    ],
)
def test_some_cells_of_four_items_are_exact(task: str, names: tuple[str, ...]) -> None:
    found = wanted(task, 4, names)
    assert {cell.way for cell, _ in found} == set(names)
    hold(found)


@pytest.mark.slow
@pytest.mark.parametrize("task", OPEN)
def test_every_cell_of_four_items_is_exact(task: str) -> None:
    hold(wanted(task, 4))


@pytest.mark.parametrize(("operation", "law"), [("replace_random", "task"), ("shuffle", "all_orders")])
def test_items_of_two_tokens_are_exact(operation: str, law) -> None:
    found = [c for c in cells([operation], [3]) if c.way.endswith("2 tokens")]
    assert found
    hold(with_samplers(found))


def test_without_noise_the_last_two_places_are_right_when_the_newcomer_s_id_is_between_their_items() -> None:
    """Two places keep their items, any two; the last two each tie between their item and the newcomer."""
    question = list_question("replace_random", 4)
    x, w = question.instance.meta["x"], question.instance.meta["w"]
    cell = Cell(CellGroup("replace_random", 4, lambda: question), "lowest id", ways.lowest_id(2), Fraction(0))
    [(_, sampler)] = with_samplers([cell])
    rights = [Engine(question, sampler, False, [*x[:i], w, *x[i:]]).outcome().right for i in range(5)]
    assert rights == [0, Fraction(1, 2), Fraction(2, 3), Fraction(1, 2), 0]
