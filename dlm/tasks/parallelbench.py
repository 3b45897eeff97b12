"""The benchmark's lists and puzzles (after ParallelBench, arXiv 2510.04767; own wordings and names).

A question about a list, a queue of people with full names (the Waiting Line), has four lines: the scene, the operation,
the list, what to return. The puzzles are Latin squares of four symbols, and 4x4 Sudokus with one solution.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any, Literal

from dlm.errors import SettingsError
from dlm.tasks import puzzles
from dlm.tasks.base import SUITE_VERSION, Instance, Split, Stream, Template, Verdict, instance_id
from dlm.tasks.lists import ListQuestion, edited, judge_list, open_list, render, reordered
from dlm.tasks.people import POOL

SCENE = "You run the queue at a help desk."
UPDATED = "Return the updated list, nothing else."
# Operation -> what happens, what to return. {w}: the newcomer, {p}: a position, {base}: the number of the first place,
# {key}: the name that decides the order.
WORDING = {
    "copy": ("Note down these people in arrival order:", "Return the same list, nothing else."),
    "reverse": ("A colleague wrote the queue backwards:", "Return the list in reversed order, nothing else."),
    "sort": ("The queue must be ordered alphabetically by {key} name:", "Return the sorted list, nothing else."),
    "shuffle": (
        "For fairness the queue is put in a random order:",
        "Return a shuffled list that is not the same as the given one, nothing else.",
    ),
    "replace_index": ('Person number {p} (counting from {base}) gives their place to "{w}":', UPDATED),
    "replace_random": ('Exactly one person, your choice, gives their place to "{w}":', UPDATED),
    "insert_index": ('"{w}" joins so that they become number {p} (counting from {base}):', UPDATED),
    "insert_random": ('"{w}" joins anywhere in the queue:', UPDATED),
    "remove_index": ("Person number {p} (counting from {base}) has gone home:", UPDATED),
    "remove_random": ("Exactly one person, your choice, has gone home:", UPDATED),
}
NEWCOMER = ("replace_index", "replace_random", "insert_index", "insert_random")


class Benchmark:
    """What the benchmark's tasks have in common: a question depends on suite version, task, options, split and index
    alone, and may come with a worked example.

    A task is a frozen dataclass with ``shots``: worked examples before the question: 1, the same one for all instances;
    0, none; ``fresh``, for every instance one of its own, as the first version of the published benchmark has it.
    """

    shots: int | str

    def __post_init__(self) -> None:
        if isinstance(self.shots, bool) or self.shots not in (0, 1, "fresh"):
            raise SettingsError(f"shots must be 0, 1 or fresh, got {self.shots!r}")

    @property
    def name(self) -> str:
        """``parallelbench/<group>/<task>``."""
        raise NotImplementedError

    @property
    def key(self) -> tuple[object, ...]:
        """The name, and what else addresses its random numbers."""
        return (self.name,)

    @property
    def identity(self) -> dict[str, Any]:
        """The version of the generators."""
        return {"suite": SUITE_VERSION}

    def drawn(self, stream: Stream, index: int | None) -> tuple[str, str, dict[str, Any], Template]:
        """Prompt, one right answer, what the scorer needs, and the infill form of the ``index``-th question; None: of a
        worked example."""
        raise NotImplementedError

    def instance(self, index: int, split: Split = "test") -> Instance:
        """The ``index``-th question."""
        prompt, target, meta, template = self.drawn(Stream(SUITE_VERSION, *self.key, split, index), index)
        shots: tuple[tuple[str, str], ...] = ()
        if self.shots != 0:
            address = ("shot", split, index) if self.shots == "fresh" else ("shot",)
            shots = (self.drawn(Stream(SUITE_VERSION, *self.key, *address), None)[:2],)
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, target, meta, shots, template)


@dataclass(frozen=True)
class PeopleQueue(Benchmark):
    """One of the ten operations on queues of people.

    Attributes:
        operation: a key of :data:`WORDING`.
        lengths: how long lists are; instance i has the (i mod their number)-th, so that 100 instances hold equal parts.
        group: first parts of the name.
        canvas: positions that hold any answer.
        shots: see :class:`Benchmark`.
        index_base: the number of the first place in questions about positions: 1, or 0 as first published. The question
            says which.
        compat: ``ours``; ``upstream`` keeps a published defect: ``sort`` asks for the order of last names, and the
            answer is in the order of full names.
    """

    operation: str
    lengths: tuple[int, ...] = (3, 4, 5, 6)
    group: str = "parallelbench/waiting_line"
    canvas: int = 32
    shots: int | str = 1
    index_base: int = 1
    compat: Literal["ours", "upstream"] = "ours"
    size: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.index_base) is not int or self.index_base not in (0, 1):
            raise SettingsError(f"index_base must be 0 or 1, got {self.index_base!r}")
        if self.compat not in ("ours", "upstream"):
            raise SettingsError(f"compat must be ours or upstream, got {self.compat!r}")

    @property
    def name(self) -> str:
        """``parallelbench/waiting_line/<operation>``."""
        return f"{self.group}/{self.operation}"

    def drawn(self, stream: Stream, index: int | None) -> tuple[str, str, dict[str, Any], Template]:
        operation = self.operation
        n = stream.choice(self.lengths) if index is None else self.lengths[index % len(self.lengths)]
        *x, w = stream.sample(POOL, n + 1)
        while operation == "sort" and len({name.split()[0] for name in x}) < n:  # equal first names have no order
            *x, w = stream.sample(POOL, n + 1)
        i = stream.below(n + 1 if operation.startswith("insert") else n)
        target = reordered(stream, x) if operation == "shuffle" else edited(operation, x, w, i)
        place, happens, wanted = i + self.index_base, *WORDING[operation]
        key = "last" if self.compat == "upstream" else "first"
        line = happens.format(w=w, p=place, base=self.index_base, key=key)
        meta = {"x": x, "w": w if operation in NEWCOMER else "", "place": place, "items": target}
        prompt = "\n".join((SCENE, line, render(x), wanted))
        return prompt, render(target), meta, open_list(len(target), [*x, *target])

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer by the validity sets of :mod:`dlm.tasks.rules`."""
        meta = instance.meta
        return judge_list(ListQuestion(self.operation, meta["x"], meta["w"], meta["items"]), output)


SYMBOLS = string.ascii_uppercase + string.digits
MOST_BLANKS = 12  # with fewer than four givens no 4x4 Sudoku has a single solution


@dataclass(frozen=True)
class LatinSquares(Benchmark):
    """Latin squares of four symbols; any of the 576 is right.

    Attributes:
        shots: see :class:`Benchmark`.
    """

    name: str = "parallelbench/puzzle/latin_square"
    canvas: int = 64
    shots: int | str = 1
    size: int = 100

    def drawn(self, stream: Stream, index: int | None) -> tuple[str, str, dict[str, Any], Template]:
        symbols = stream.sample(SYMBOLS, 4)
        square = puzzles.cyclic_square(stream, symbols)
        prompt = (
            f"Write a 4x4 Latin square over the symbols {', '.join(symbols[:3])} and {symbols[3]}"
            " as comma-separated rows, nothing else."
        )
        target = "\n".join(",".join(row) for row in square)
        return prompt, target, {"symbols": symbols}, puzzles.open_square(symbols)

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer: every row and column holds each symbol."""
        return puzzles.judge_latin(instance.meta["symbols"], output)


@dataclass(frozen=True)
class Sudokus(Benchmark):
    """4x4 Sudokus with exactly one solution, from a uniformly drawn grid.

    Attributes:
        blanks: how many cells are empty, 1 to 12.
        shots: see :class:`Benchmark`.
    """

    name: str = "parallelbench/puzzle/sudoku"
    canvas: int = 64
    blanks: int = 4
    shots: int | str = 1
    size: int = 108

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.blanks) is not int or not 1 <= self.blanks <= MOST_BLANKS:
            raise SettingsError(f"blanks must be a whole number from 1 to {MOST_BLANKS}, got {self.blanks!r}")

    @property
    def key(self) -> tuple[object, ...]:
        return (self.name, self.blanks)

    def drawn(self, stream: Stream, index: int | None) -> tuple[str, str, dict[str, Any], Template]:
        grid = stream.choice(puzzles.all_grids())
        puzzle = puzzles.punched(stream, grid, self.blanks)
        while len(puzzles.solutions(puzzle)) != 1:
            puzzle = puzzles.punched(stream, grid, self.blanks)
        prompt = (
            "Complete the 4x4 grid (0 = empty) so that rows, columns and 2x2 boxes each hold 1-4. Grid:\n"
            f"{puzzles.show(puzzle)}\nAnswer:"
        )
        return prompt, puzzles.show(grid), {"puzzle": puzzle}, puzzles.open_grid(puzzle)

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer: a solved grid in which the given cells still stand."""
        return puzzles.judge_sudoku(instance.meta["puzzle"], output)
