"""All right answers of a question, spelled out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Answer = tuple[str, ...]


def permutations(x: Sequence[str]) -> tuple[Answer, ...]:
    """Every order of ``x``, its own too."""
    return tuple(itertools.permutations(x))


def right_answers(operation: str, x: Sequence[str], w: str, target: Sequence[str]) -> tuple[Answer, ...]:
    """The right answers to a list operation on ``x``, as lists of items.

    ``w`` is the newcomer of replace_random and insert_random. An operation that is not one of the four open ones has
    ``target`` alone.
    """
    own, n = tuple(x), len(x)
    if operation == "shuffle":
        return tuple(y for y in permutations(own) if y != own)
    if operation == "replace_random":
        return tuple((*own[:i], w, *own[i + 1 :]) for i in range(n))
    if operation == "insert_random":
        return tuple((*own[:i], w, *own[i:]) for i in range(n + 1))
    if operation == "remove_random":
        return tuple((*own[:i], *own[i + 1 :]) for i in range(n))
    return (tuple(target),)


def latin_squares(symbols: Sequence[str]) -> tuple[Answer, ...]:
    """Every Latin square over the symbols, its cells row by row: 12 of three symbols, 576 of four."""
    rows = permutations(symbols)
    squares: list[tuple[Answer, ...]] = [()]
    for _ in symbols:
        squares = [
            (*above, row)
            for above in squares
            for row in rows
            if all(a != b for other in above for a, b in zip(other, row, strict=True))
        ]
    return tuple(tuple(itertools.chain.from_iterable(square)) for square in squares)
