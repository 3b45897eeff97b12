"""When an answer is right (ParallelBench, arXiv 2510.04767)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Rule = Callable[[list[str], str, list[str], list[str]], bool]


def _equal(x: list[str], w: str, target: list[str], y: list[str]) -> bool:
    return y == target


def _shuffled(x: list[str], w: str, target: list[str], y: list[str]) -> bool:
    return y != x and sorted(y) == sorted(x)


def _inserted(x: list[str], w: str, target: list[str], y: list[str]) -> bool:
    if w not in y:
        return False
    i = y.index(w)
    return [*y[:i], *y[i + 1 :]] == x


def _removed(x: list[str], w: str, target: list[str], y: list[str]) -> bool:
    missing = set(x) - set(y)
    if len(y) != len(x) - 1 or len(missing) != 1:
        return False
    i = x.index(missing.pop())
    return [*x[:i], *x[i + 1 :]] == y


def _replaced(x: list[str], w: str, target: list[str], y: list[str]) -> bool:
    if len(y) != len(x) or w not in y:
        return False
    i = y.index(w)
    return [*x[:i], w, *x[i + 1 :]] == y


# Operations that have several right answers. Every other one has its target.
OPEN: dict[str, Rule] = {
    "shuffle": _shuffled,
    "insert_random": _inserted,
    "remove_random": _removed,
    "replace_random": _replaced,
}


def right_list(operation: str, x: list[str], w: str, target: list[str], y: list[str]) -> bool:
    """Whether ``y`` is a right answer for the list ``x``; ``w`` is the newcomer where the operation has one."""
    return OPEN.get(operation, _equal)(x, w, target, y)


def right_latin(rows: Sequence[Sequence[str]], symbols: Sequence[str]) -> bool:
    """Whether every row and every column holds each symbol once: any of the 576 squares of four symbols does."""
    wanted, n = set(symbols), len(symbols)
    return (
        len(rows) == n
        and all(len(row) == n and set(row) == wanted for row in rows)
        and all({row[c] for row in rows} == wanted for c in range(n))
    )


def right_sudoku(rows: Sequence[str], puzzle: Sequence[Sequence[int]]) -> bool:
    """Whether rows, columns and 2x2 boxes hold 1 to 4 once and the given cells (not 0) still stand."""
    full = set("1234")
    boxes = ({rows[r + i][c + j] for i in (0, 1) for j in (0, 1)} for r in (0, 2) for c in (0, 2))
    return (
        all(set(row) == full for row in rows)
        and all({row[c] for row in rows} == full for c in range(4))
        and all(box == full for box in boxes)
        and givens_kept(rows, puzzle)
    )


def givens_kept(rows: Sequence[str], puzzle: Sequence[Sequence[int]]) -> bool:
    """Whether the given cells (not 0) still stand."""
    return all(not puzzle[r][c] or rows[r][c] == str(puzzle[r][c]) for r in range(4) for c in range(4))
