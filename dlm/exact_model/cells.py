"""The table: what is decoded how, and what must come out (docs/oracle.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from dlm.errors import SettingsError
from dlm.exact_model import adaptive, trajectories, ways
from dlm.exact_model import closed_forms as forms
from dlm.exact_model.question import SolvedQuestion, latin_question, list_question, stride, sudoku_question
from dlm.words import meant

ONE_ANSWER = ("copy", "reverse", "sort", "replace_index", "insert_index", "remove_index")
TASKS = ("shuffle", "replace_random", "insert_random", "remove_random", "latin_square", "sudoku", *ONE_ANSWER)
LENGTHS = (3, 4, 5, 6)
COMPARISONS = ((">=", False), (">", True))
FACTORS = ("0.7", "1.0", "1.3", "1.6", "1.9")


@dataclass(frozen=True)
class CellGroup:
    """What several cells have in common.

    Attributes:
        task: one of :data:`TASKS`.
        n: items of the given list; for grids their width.
        question: makes the question.
        law: what the model's answers are drawn from, in words; empty: what the task accepts.
        scored: counted is what the task's scorer accepts, instead of what the model's law contains.
    """

    task: str
    n: int
    question: Callable[[], SolvedQuestion]
    law: str = ""
    scored: bool = True


@dataclass(frozen=True)
class Cell:
    """One figure of the table.

    Attributes:
        group: what is decoded.
        way: how, in words.
        overrides: the sampler.
        accuracy: what must come out.
        forwards: how many every right output must take; None: it varies.
    """

    group: CellGroup
    way: str
    overrides: ways.Overrides
    accuracy: Fraction
    forwards: int | None = None


def cells(tasks: Sequence[str] = TASKS, lengths: Sequence[int] = LENGTHS) -> list[Cell]:
    """Every cell of these tasks and lengths.

    Raises:
        SettingsError: an unknown task, a length outside 3 to 6, or nothing left.
    """
    for task in tasks:
        if task not in TASKS:
            raise SettingsError(f"unknown task {task!r}{meant(task, TASKS)}; known are all or {', '.join(TASKS)}")
    for n in lengths:
        if type(n) is not int or n not in LENGTHS:
            raise SettingsError(f"n must be 3, 4, 5 or 6, or a list of these, got {n!r}")
    found = [cell for n in dict.fromkeys(lengths) for task in dict.fromkeys(tasks) for cell in _cells_of(task, n)]
    if not found:
        raise SettingsError("these tasks have no cell of that n: sudoku has n=4, latin_square n=3 and n=4")
    return found


def _cells_of(task: str, n: int) -> Iterator[Cell]:
    if task == "shuffle":
        yield from _shuffle(n)
        yield from _other_shuffle(n)
    elif task == "replace_random":
        yield from _replace(n)
    elif task in ("insert_random", "remove_random"):
        yield from _where_order_counts(task, n)
    elif task == "latin_square" and n in forms.LATIN_SQUARES:
        # The task's scorer knows squares of four symbols only.
        group = CellGroup(task, n, partial(latin_question, n), scored=n == 4)
        yield Cell(group, "drawn, all at once", ways.drawn(n * n), forms.latin(n), 1)
        yield Cell(group, "drawn, 1 at a time", ways.drawn(1), Fraction(1), n * n)
    elif task == "sudoku" and n == 4:
        yield Cell(CellGroup(task, n, sudoku_question), "drawn, all at once", ways.drawn(16), Fraction(1), 1)
    elif task in ONE_ANSWER:
        group = CellGroup(task, n, partial(list_question, task, n))
        yield Cell(group, "drawn, all at once", ways.drawn(n + 1), Fraction(1), 1)


def _shuffle(n: int) -> Iterator[Cell]:
    """Answers are all orders, the given one too, which the task's scorer refuses."""
    question = partial(list_question, "shuffle", n, "all_orders")
    scored = CellGroup("shuffle", n, question, "all orders")
    yield Cell(scored, "drawn, all at once, scored", ways.drawn(n), forms.shuffle_scored(n), 1)
    group = CellGroup("shuffle", n, question, "all orders", scored=False)
    for name, sizes, drawn, best in _schedules(n, stride(question())):
        yield Cell(group, f"drawn, {name}", drawn, forms.shuffle_in(sizes), len(sizes))
        yield Cell(group, f"best, {name}", best, forms.shuffle_in(sizes), len(sizes))
    yield Cell(group, "best, 2 at a time, lowest id", ways.lowest_id(2), Fraction(0), -(-n // 2))
    full = CellGroup("shuffle", n, partial(list_question, "shuffle", n, "all_orders", 2), "all orders", scored=False)
    yield Cell(full, "drawn, all at once, items of 2 tokens", ways.drawn(2 * n), forms.shuffle(n, 2), 1)
    for gamma in ("0.1", "0.2", "0.25", "0.3", "0.4", "0.5", "0.6"):
        for sign, strict in COMPARISONS:
            accuracy, forwards = adaptive.shuffle_threshold(n, Fraction(gamma), strict)
            yield Cell(group, f"best, p {sign} {gamma}", ways.threshold(gamma, strict, False), accuracy, forwards)
            if gamma in ("0.3", "0.5"):
                yield Cell(group, f"drawn, p {sign} {gamma}", ways.threshold(gamma, strict, True), accuracy, forwards)
    for factor in FACTORS:
        for slip in (False, True):
            name = f"best, factor {factor}" + ", published slip" * slip
            yield Cell(group, name, ways.factor(factor, slip), *adaptive.shuffle_factor(n, Fraction(factor), slip))
    for gamma in ("0.5", "0.7", "1.2", "1.5", "2.0"):
        sizes = adaptive.shuffle_entropy_bound(n, float(gamma))
        way = ways.entropy_bound(gamma)
        yield Cell(group, f"best, entropy bound {gamma}", way, forms.shuffle_in(sizes), len(sizes))


def _other_shuffle(n: int) -> Iterator[Cell]:
    """Answers are the orders that the task accepts."""
    group = CellGroup("shuffle", n, partial(list_question, "shuffle", n))
    yield Cell(group, "drawn, all at once", ways.drawn(n), forms.other_shuffle(n), 1)
    yield Cell(group, "drawn, 1 at a time", ways.drawn(1), Fraction(1), n)
    for k in (n, 2) if n <= 4 else ():  # the enumeration grows fast
        sizes = forms.blocks_of(n, k)
        accuracy = trajectories.greedy(group.question().answers, sizes)
        yield Cell(group, f"best, {_steps(k, n)}", ways.best(k), accuracy, len(sizes))


def _replace(n: int) -> Iterator[Cell]:
    question = partial(list_question, "replace_random", n)
    group = CellGroup("replace_random", n, question)
    for name, sizes, drawn, best in _schedules(n, stride(question())):
        yield Cell(group, f"drawn, {name}", drawn, forms.replace_in(sizes), len(sizes))
        yield Cell(group, f"best, {name}", best, forms.replace_greedy_in(sizes), len(sizes))
    full = CellGroup("replace_random", n, partial(list_question, "replace_random", n, "task", 2))
    yield Cell(full, "drawn, all at once, items of 2 tokens", ways.drawn(2 * n), forms.replace(n, 2), 1)
    for gamma in ("0.5", "0.6", "0.7", "0.8", "0.9"):
        for sign, strict in COMPARISONS:
            accuracy, forwards = adaptive.replace_threshold(n, Fraction(gamma), strict)
            yield Cell(group, f"best, p {sign} {gamma}", ways.threshold(gamma, strict, False), accuracy, forwards)
            accuracy = adaptive.replace_threshold_drawn(n, Fraction(gamma), strict)
            yield Cell(group, f"drawn, p {sign} {gamma}", ways.threshold(gamma, strict, True), accuracy)
    for factor in FACTORS:
        for slip in (False, True):
            name = f"best, factor {factor}" + ", published slip" * slip
            yield Cell(group, name, ways.factor(factor, slip), adaptive.replace_factor(n, Fraction(factor), slip))


def _where_order_counts(task: str, n: int) -> Iterator[Cell]:
    """Insertion and removal."""
    group = CellGroup(task, n, partial(list_question, task, n))
    answers, width = group.question().answers, stride(group.question())
    slots = len(answers[0])
    for k in [k for k in dict.fromkeys((1, 2, 3, slots)) if k <= slots]:
        sizes, steps, name = forms.blocks_of(slots, k), -(-slots // k), _steps(k, slots)
        yield Cell(group, f"drawn, {name}", ways.drawn(k), trajectories.drawn(answers, sizes), steps)
        yield Cell(group, f"best, {name}", ways.best(k), trajectories.greedy(answers, sizes), steps)
        if k == slots:
            continue
        name += ", left to right"
        accuracy = trajectories.drawn(answers, sizes, "left_to_right")
        yield Cell(group, f"drawn, {name}", ways.left_to_right(ways.drawn(k), k * width), accuracy, steps)
        accuracy = trajectories.greedy(answers, sizes, "left_to_right")
        yield Cell(group, f"best, {name}", ways.left_to_right(ways.best(k), k * width), accuracy, steps)
        accuracy = trajectories.greedy(answers, sizes, "confidence")
        yield Cell(group, f"best, {_steps(k, slots)}, surest first", ways.surest_first(k), accuracy, steps)


def _schedules(n: int, width: int) -> Iterator[tuple[str, forms.Sizes, ways.Overrides, ways.Overrides]]:
    """Name, block sizes, and the samplers that draw tokens and take the best ones; items are ``width`` apart."""
    for k in dict.fromkeys((1, 2, 3, n)):
        yield _steps(k, n), forms.blocks_of(n, k), ways.drawn(k), ways.best(k)
    left = [ways.left_to_right(way, 2 * width) for way in (ways.drawn(2), ways.best(2))]
    yield "2 at a time, left to right", forms.blocks_of(n, 2), left[0], left[1]
    for steps in range(2, n):
        sizes = forms.larger_first(n, steps)
        if sizes != forms.blocks_of(n, sizes[0]):
            yield f"{steps} steps, larger first", sizes, ways.in_steps(steps, True), ways.in_steps(steps, False)


def _steps(k: int, slots: int) -> str:
    return "all at once" if k == slots else f"{k} at a time"
