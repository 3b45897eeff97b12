"""4x4 grids: Sudoku with one solution, and Latin squares, which have many."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

from dlm.tasks.base import Draft, Instance, Stream, Verdict

Grid = tuple[tuple[int, ...], ...]
SYMBOLS = "ABCDEFGH"


@cache
def all_grids() -> tuple[Grid, ...]:
    """The 288 solved 4x4 Sudoku grids."""
    rows = list(itertools.permutations((1, 2, 3, 4)))
    return tuple(grid for grid in itertools.product(rows, repeat=4) if _solved(grid))


def _solved(grid: Grid) -> bool:
    full = {1, 2, 3, 4}
    boxes = [{grid[r + i][c + j] for i in (0, 1) for j in (0, 1)} for r in (0, 2) for c in (0, 2)]
    return all({row[c] for row in grid} == full for c in range(4)) and all(box == full for box in boxes)


def solutions(puzzle: Grid) -> list[Grid]:
    """Every solved grid that agrees with the given cells (0 is empty)."""
    cells = [(r, c, puzzle[r][c]) for r in range(4) for c in range(4) if puzzle[r][c]]
    return [grid for grid in all_grids() if all(grid[r][c] == v for r, c, v in cells)]


def show(grid: Grid) -> str:
    """Four lines of four digits."""
    return "\n".join("".join(map(str, row)) for row in grid)


@dataclass(frozen=True)
class Sudoku:
    """4 to 8 empty cells, exactly one solution. Whole solution grids are held out for the test split."""

    name: str = "puzzle/sudoku"
    canvas: int = 32

    def draw(self, stream: Stream) -> Draft:
        grid = stream.choice(all_grids())
        while True:
            holes = set(stream.sample(range(16), stream.between(4, 8)))
            puzzle = tuple(tuple(0 if 4 * r + c in holes else grid[r][c] for c in range(4)) for r in range(4))
            if len(solutions(puzzle)) == 1:
                return Draft(grid, f"Solve the sudoku:\n{show(puzzle)}", show(grid), {"puzzle": puzzle})

    def judge(self, instance: Instance, output: str) -> Verdict:
        lines = [line.replace(" ", "").replace(",", "") for line in output.splitlines()]
        rows = [line for line in lines if len(line) == 4 and line.isdigit()]
        return Verdict(float("\n".join(rows) == instance.target))


@dataclass(frozen=True)
class LatinSquare:
    """Any 4x4 square in which every row and column holds each of four given symbols once."""

    name: str = "puzzle/latin_square"
    canvas: int = 48

    def draw(self, stream: Stream) -> Draft:
        symbols = stream.sample(SYMBOLS, 4)
        rows, columns = stream.shuffled(range(4)), stream.shuffled(range(4))
        square = [[symbols[(r + c) % 4] for c in columns] for r in rows]
        target = "\n".join(",".join(row) for row in square)
        prompt = f"Write a Latin square of {','.join(symbols)}:"
        return Draft(tuple(sorted(symbols)), prompt, target, {"symbols": symbols})

    def judge(self, instance: Instance, output: str) -> Verdict:
        symbols = set(instance.meta["symbols"])
        rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
        rows = [row for row in rows if set(row) == symbols and len(row) == 4][:4]
        return Verdict(float(len(rows) == 4 and all({row[c] for row in rows} == symbols for c in range(4))))
