"""4x4 grids: Sudoku with one solution, and Latin squares, which have many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from dlm.tasks.base import Draft, Instance, Stream, Template, Verdict
from dlm.tasks.reading import kept, loose_digits, loose_rows, strict_digits, strict_rows
from dlm.tasks.rules import givens_kept, right_latin, right_sudoku

Grid = tuple[tuple[int, ...], ...]
SYMBOLS = "ABCDEFGH"


@cache
def all_grids() -> tuple[Grid, ...]:
    """The 288 solved 4x4 Sudoku grids, in order."""
    rows = list(itertools.permutations((1, 2, 3, 4)))
    halves = [(a, b) for a in rows for b in rows if not {*a[:2]} & {*b[:2]}]  # then the other box is right, too
    return tuple((*a, *b) for a in halves for b in halves if _latin(*a, *b))


def _latin(*rows: tuple[int, ...]) -> bool:
    return all(len({*column}) == len(column) for column in zip(*rows, strict=True))


def solutions(puzzle: Grid) -> list[Grid]:
    """Every solved grid that agrees with the given cells (0 is empty)."""
    cells = [(r, c, puzzle[r][c]) for r in range(4) for c in range(4) if puzzle[r][c]]
    return [grid for grid in all_grids() if all(grid[r][c] == v for r, c, v in cells)]


def show(grid: Grid) -> str:
    """Four lines of four digits."""
    return "\n".join("".join(map(str, row)) for row in grid)


def punched(stream: Stream, grid: Grid, holes: int) -> Grid:
    """The grid with that many cells emptied (0)."""
    empty = set(stream.sample(range(16), holes))
    return tuple(tuple(0 if 4 * r + c in empty else grid[r][c] for c in range(4)) for r in range(4))


def open_grid(puzzle: Grid) -> Template:
    """The grid's text with a slot for every empty cell."""
    return Template(tuple(show(puzzle).split("0")), tuple("1234"))


def cyclic_square(stream: Stream, symbols: Sequence[str]) -> list[list[str]]:
    """A Latin square: the cyclic one with rows and columns in random order."""
    rows, columns = stream.shuffled(range(4)), stream.shuffled(range(4))
    return [[symbols[(r + c) % 4] for c in columns] for r in rows]


def open_square(symbols: Sequence[str]) -> Template:
    """Four rows of four slots, commas and line ends given."""
    return Template(("", *[*[","] * 3, "\n"] * 3, *[","] * 3, ""), tuple(symbols))


def judge_sudoku(puzzle: Sequence[Sequence[int]], output: str) -> Verdict:
    """Score a grid. Errors: ``unparsable``; ``givens_changed``; ``invalid``: a digit twice in a row, column or box."""
    rows, exact = loose_digits(output), strict_digits(output)
    right = rows is not None and right_sudoku(rows, puzzle)
    strict = exact is not None and right_sudoku(exact, puzzle)
    if rows is None:
        error: str | None = "unparsable"
    else:
        error = None if right else "invalid" if givens_kept(rows, puzzle) else "givens_changed"
    return Verdict(float(right), float(strict), error, rows)


def judge_latin(symbols: Sequence[str], output: str) -> Verdict:
    """Score a square. Errors: ``unparsable``: fewer than four rows of the symbols; ``invalid``: a symbol twice."""
    rows, exact = loose_rows(output, symbols), strict_rows(output, symbols)
    right = right_latin(rows, symbols)
    strict = exact is not None and right_latin(exact, symbols)
    error = None if right else "unparsable" if len(rows) < len(symbols) else "invalid"
    return Verdict(float(right), float(strict), error, [kept(row) for row in rows])


@dataclass(frozen=True)
class Sudoku:
    """4 to 8 empty cells, exactly one solution. Whole solution grids are held out for the test split."""

    name: str = "puzzle/sudoku"
    canvas: int = 32

    def draw(self, stream: Stream) -> Draft:
        grid = stream.choice(all_grids())
        while True:
            puzzle = punched(stream, grid, stream.between(4, 8))
            if len(solutions(puzzle)) == 1:
                return Draft(grid, f"Solve the sudoku:\n{show(puzzle)}", show(grid), {"puzzle": puzzle},
                             open_grid(puzzle))  # fmt: skip

    def judge(self, instance: Instance, output: str) -> Verdict:
        return judge_sudoku(instance.meta["puzzle"], output)


@dataclass(frozen=True)
class LatinSquare:
    """Any 4x4 square in which every row and column holds each of four given symbols once."""

    name: str = "puzzle/latin_square"
    canvas: int = 48

    def draw(self, stream: Stream) -> Draft:
        symbols = stream.sample(SYMBOLS, 4)
        target = "\n".join(",".join(row) for row in cyclic_square(stream, symbols))
        prompt = f"Write a Latin square of {','.join(symbols)}:"
        return Draft(tuple(sorted(symbols)), prompt, target, {"symbols": symbols}, open_square(symbols))

    def judge(self, instance: Instance, output: str) -> Verdict:
        return judge_latin(instance.meta["symbols"], output)
