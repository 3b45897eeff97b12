"""The benchmark's puzzles: Latin squares of four symbols, and 4x4 Sudokus with one solution (own wordings).

The benchmark is ParallelBench (arXiv 2510.04767).
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks import puzzles
from dlm.tasks.base import Instance, Stream, Template, Verdict
from dlm.tasks.parallelbench_lists import Benchmark

SYMBOLS = string.ascii_uppercase + string.digits
MOST_BLANKS = 12  # with fewer than four givens no 4x4 Sudoku has a single solution


@dataclass(frozen=True)
class LatinSquares(Benchmark):
    """Latin squares of four symbols; any of the 576 is right.

    Attributes:
        shots: see :class:`dlm.tasks.parallelbench_lists.Benchmark`.
    """

    name: str = "parallelbench/puzzle/latin_square"
    canvas: int = 64
    shots: int | str = 1
    size: int = 100

    @property
    def key(self) -> tuple[object, ...]:
        return (self.name,)

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
        shots: see :class:`dlm.tasks.parallelbench_lists.Benchmark`.
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
