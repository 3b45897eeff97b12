"""A question together with all its right answers, as an oracle needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

from dlm import tasks
from dlm.errors import SettingsError
from dlm.exact_model.answers import Answer, latin_squares, permutations, right_answers
from dlm.tasks import Instance, Task
from dlm.tasks.people import LAST
from dlm.tasks.waiting_line import OPERATIONS

Law = Literal["task", "all_orders"]


@dataclass(frozen=True)
class SolvedQuestion:
    """A question of a task, its answers, and how an answer is written.

    Attributes:
        task: scores what is written.
        instance: what is asked.
        pieces: the given text before, between and behind the slots, one more than there are slots; some are empty.
        answers: what stands in the slots, one entry per right answer, all equally likely.
    """

    task: Task
    instance: Instance
    pieces: tuple[str, ...]
    answers: tuple[Answer, ...]

    @property
    def layout(self) -> list[str | None]:
        """The answer token by token: given text, None for a slot."""
        slots = [piece for before in self.pieces[:-1] for piece in (before, None)]
        return [piece for piece in (*slots, self.pieces[-1]) if piece is None or piece]

    @property
    def slots(self) -> list[int]:
        """Where the slots are in :attr:`layout`."""
        return [place for place, piece in enumerate(self.layout) if piece is None]

    def written(self, answer: Sequence[str]) -> list[str]:
        """An answer token by token, given text included."""
        fill = iter(answer)
        return [next(fill) if piece is None else piece for piece in self.layout]

    def text(self, answer: Sequence[str]) -> str:
        """An answer as the task reads it."""
        return "".join(self.written(answer))


@cache
def list_question(operation: str, n: int, law: Law = "task", tokens: int = 1) -> SolvedQuestion:
    """A question about a list of ``n`` people: the first held-out one of that length.

    Args:
        operation: of :data:`dlm.tasks.waiting_line.OPERATIONS`.
        law: ``task``: the answers the scorer accepts; ``all_orders``: shuffle with the given order among the answers.
        tokens: 1: an item is a token; 2: first and last name are one each.

    Raises:
        SettingsError: no such operation or length.
    """
    if operation not in OPERATIONS:
        raise SettingsError(f"unknown operation {operation!r}; known are {', '.join(OPERATIONS)}")
    if not 3 <= n <= 6:
        raise SettingsError(f"n must be 3 to 6 (the lengths of the task's lists), got {n}")
    task = tasks.get(f"waiting_line/{operation}")
    drawn = (task.instance(i) for i in range(10_000))
    instance = next(i for i in drawn if len(i.meta["x"]) == n)
    return question_of(task, instance if tokens == 1 else _with_full_names(instance), law, tokens)


def question_of(task: Task, instance: Instance, law: Law = "task", tokens: int = 1) -> SolvedQuestion:
    """A question about a list, its answers spelled out; arguments as in :func:`list_question`.

    ``task`` is any whose name ends with an operation, short form or full benchmark.
    """
    operation = task.name.rpartition("/")[2]
    x, w = list(instance.meta["x"]), str(instance.meta.get("w", ""))
    answers = permutations(x) if law == "all_orders" else right_answers(operation, x, w, _items(instance.target))
    between = ['["', *['", "'] * (len(answers[0]) - 1)]
    pieces = [piece for text in between for piece in (text, *[""] * (tokens - 1))]
    return SolvedQuestion(task, instance, (*pieces, '"]'), tuple(tuple(_split(a, tokens)) for a in answers))


@cache
def latin_question(n: int) -> SolvedQuestion:
    """The first held-out question for a Latin square, over its first ``n`` symbols (the task's scorer knows n=4)."""
    task = tasks.get("puzzle/latin_square")
    instance = task.instance(0)
    answers = latin_squares(list(instance.meta["symbols"])[:n])
    ends = ["\n" if (cell + 1) % n == 0 else "," for cell in range(n * n - 1)]
    return SolvedQuestion(task, instance, ("", *ends, ""), answers)


@cache
def sudoku_question() -> SolvedQuestion:
    """The first held-out sudoku; the given cells are asked for too."""
    task = tasks.get("puzzle/sudoku")
    instance = task.instance(0)
    answer = tuple(instance.target.replace("\n", ""))
    ends = ["\n" if (cell + 1) % 4 == 0 else "" for cell in range(15)]
    return SolvedQuestion(task, instance, ("", *ends, ""), (answer,))


def agrees(question: SolvedQuestion) -> bool:
    """Whether the task accepts every answer of the question."""
    return all(question.task.judge(question.instance, question.text(a)).score == 1 for a in question.answers)


def stride(question: SolvedQuestion) -> int:
    """Positions from one item to the next, for blocks of whole items.

    Raises:
        SettingsError: items do not stand at equal distances.
    """
    firsts = [place for place in question.slots if place and question.layout[place - 1] is not None]
    steps = {b - a for a, b in pairwise(firsts)}
    if len(steps) != 1 or firsts[0] >= min(steps):
        raise SettingsError("blocks of items need a list: this question's slots are not evenly spaced")
    return steps.pop()


def _with_full_names(instance: Instance) -> Instance:
    """The same question about people with a last name each; the prompt stays as it is."""
    x, target, meta = list(instance.meta["x"]), _items(instance.target), dict(instance.meta)
    names = dict.fromkeys([*x, *target, *([meta["w"]] if "w" in meta else [])])
    full = {name: f"{name} {last}" for name, last in zip(names, LAST, strict=False)}
    meta |= {"x": [full[name] for name in x]} | ({"w": full[meta["w"]]} if "w" in meta else {})
    written = "[" + ", ".join(f'"{full[name]}"' for name in target) + "]"
    return replace(instance, target=written, meta=meta, template=None)


def _items(text: str) -> list[str]:
    return text.removeprefix('["').removesuffix('"]').split('", "')


def _split(answer: Sequence[str], tokens: int) -> list[str]:
    """Items as tokens: a last name carries the blank before it."""
    if tokens == 1:
        return list(answer)
    return [token for item in answer for token in (item.split(" ")[0], " " + item.split(" ")[1])]
