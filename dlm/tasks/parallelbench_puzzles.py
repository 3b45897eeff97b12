"""The benchmark's puzzles: Latin squares of four symbols, and 4x4 Sudokus with one solution (own wordings).

The benchmark is ParallelBench (arXiv 2510.04767).
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import SUITE_VERSION, Instance, Split, Stream, Verdict, instance_id
from dlm.tasks.parallelbench_lists import check_shots
from dlm.tasks.puzzles import (
    Grid,
    all_grids,
    cyclic_square,
    judge_latin,
    judge_sudoku,
    open_grid,
    open_square,
    punched,
    show,
    solutions,
)

SYMBOLS = string.ascii_uppercase + string.digits
MOST_BLANKS = 12  # with fewer than four givens no 4x4 Sudoku has a single solution


@dataclass(frozen=True)
class LatinSquares:
    """Latin squares of four symbols; any of the 576 is right.

    Attributes:
        shots: as in :class:`dlm.tasks.parallelbench_lists.PeopleQueue`.
    """

    name: str = "parallelbench/puzzle/latin_square"
    canvas: int = 64
    shots: int | str = 1
    size: int = 100

    def __post_init__(self) -> None:
        check_shots(self.shots)

    @property
    def identity(self) -> dict[str, Any]:
        """The version of the generators."""
        return {"suite": SUITE_VERSION}

    def instance(self, index: int, split: Split = "test") -> Instance:
        """The ``index``-th question; it depends on suite version, task, split and index alone."""
        prompt, target, symbols = self._drawn(split, index)
        meta = {"symbols": symbols}
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, target, meta,
                        _shots(self, split, index), open_square(symbols))  # fmt: skip

    def _drawn(self, *address: object) -> tuple[str, str, list[str]]:
        stream = Stream(SUITE_VERSION, self.name, *address)
        symbols = stream.sample(SYMBOLS, 4)
        square = cyclic_square(stream, symbols)
        prompt = (
            f"Write a 4x4 Latin square over the symbols {', '.join(symbols[:3])} and {symbols[3]}"
            " as comma-separated rows, nothing else."
        )
        return prompt, "\n".join(",".join(row) for row in square), symbols

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer: every row and column holds each symbol."""
        return judge_latin(instance.meta["symbols"], output)


@dataclass(frozen=True)
class Sudokus:
    """4x4 Sudokus with exactly one solution, from a uniformly drawn grid.

    Attributes:
        blanks: how many cells are empty, 1 to 12.
        shots: as in :class:`dlm.tasks.parallelbench_lists.PeopleQueue`.
    """

    name: str = "parallelbench/puzzle/sudoku"
    canvas: int = 64
    blanks: int = 4
    shots: int | str = 1
    size: int = 108

    def __post_init__(self) -> None:
        check_shots(self.shots)
        if type(self.blanks) is not int or not 1 <= self.blanks <= MOST_BLANKS:
            raise SettingsError(f"blanks must be a whole number from 1 to {MOST_BLANKS}, got {self.blanks!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """The version of the generators."""
        return {"suite": SUITE_VERSION}

    def instance(self, index: int, split: Split = "test") -> Instance:
        """The ``index``-th question; it depends on suite version, task, options, split and index alone."""
        prompt, target, puzzle = self._drawn(split, index)
        meta = {"puzzle": puzzle}
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, target, meta,
                        _shots(self, split, index), open_grid(puzzle))  # fmt: skip

    def _drawn(self, *address: object) -> tuple[str, str, Grid]:
        stream = Stream(SUITE_VERSION, self.name, self.blanks, *address)
        grid = stream.choice(all_grids())
        puzzle = punched(stream, grid, self.blanks)
        while len(solutions(puzzle)) != 1:
            puzzle = punched(stream, grid, self.blanks)
        prompt = (
            "Complete the 4x4 grid (0 = empty) so that rows, columns and 2x2 boxes each hold 1-4. Grid:\n"
            f"{show(puzzle)}\nAnswer:"
        )
        return prompt, show(grid), puzzle

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer: a solved grid in which the given cells still stand."""
        return judge_sudoku(instance.meta["puzzle"], output)


def _shots(task: LatinSquares | Sudokus, split: Split, index: int) -> tuple[tuple[str, str], ...]:
    if task.shots == 0:
        return ()
    address = ("shot", split, index) if task.shots == "fresh" else ("shot",)
    prompt, target, _ = task._drawn(*address)
    return ((prompt, target),)
