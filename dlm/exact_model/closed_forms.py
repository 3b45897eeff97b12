"""What a decoder with exact marginals achieves, as formulas (ParallelBench, arXiv 2510.04767, has
the first of them; docs/oracle.md says what they are for).

Nothing here knows a decoder, a model or a task: ``n`` is the length of the given list, an accuracy is a Fraction, a
total correlation is in bits. Positions are filled in blocks of so many at a time (``sizes``); within a block each
token is drawn on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import comb, factorial, log2, prod

LATIN_SQUARES = {3: 12, 4: 576}
Sizes = tuple[int, ...]


def blocks_of(n: int, k: int) -> Sizes:
    """``k`` positions a step, the last step takes what is left."""
    return tuple(min(k, n - done) for done in range(0, n, k))


def larger_first(n: int, steps: int) -> Sizes:
    """So many steps, as equal as possible, the larger ones first (LLaDA, arXiv 2502.09992)."""
    return tuple(n // steps + (i < n % steps) for i in range(steps))


def left_before(sizes: Sequence[int]) -> list[int]:
    """How many positions are open before each step."""
    return [sum(sizes[i:]) for i in range(len(sizes))]


# One step, tokens drawn: accuracy.


def shuffle(n: int, tokens: int = 1) -> Fraction:
    """Any permutation counts; items of so many ``tokens`` each."""
    return Fraction(factorial(n), n ** (n * tokens))


def shuffle_scored(n: int) -> Fraction:
    """The same draws under the benchmark's scorer, which refuses the given order."""
    return Fraction(factorial(n) - 1, n**n)


def other_shuffle(n: int) -> Fraction:
    """The marginals are those of all permutations but the given order: an item stays less often than it moves."""
    stay, move = _stay_and_move(n)
    return sum((comb(n, f) * _derangements(n - f) * stay**f * move ** (n - f) for f in range(n)), Fraction(0))


def replace(n: int, tokens: int = 1) -> Fraction:
    """Exactly one place draws the newcomer, all its tokens together."""
    return Fraction(n) ** (1 - tokens) * Fraction(n - 1, n) ** (tokens * (n - 1))


def insert(n: int) -> Fraction:
    """The newcomer anywhere."""
    return Fraction(factorial(n) * 2**n, (n + 1) ** (n + 1))


def remove(n: int) -> Fraction:
    """Any one item gone."""
    return Fraction(factorial(n - 1) * 2 ** (n - 1), n ** (n - 1))


def latin(n: int) -> Fraction:
    """All cells at once: every symbol is as likely in each."""
    return Fraction(LATIN_SQUARES[n], n ** (n * n))


# One step: total correlation, in bits.


def shuffle_bits(n: int, tokens: int = 1) -> float:
    """Of a permutation."""
    return tokens * n * log2(n) - log2(factorial(n))


def other_shuffle_bits(n: int) -> float:
    """Of a permutation that is not the given order."""
    stay, move = map(float, _stay_and_move(n))
    return -n * (stay * log2(stay) + (n - 1) * move * log2(move)) - log2(factorial(n) - 1)


def replace_bits(n: int, tokens: int = 1) -> float:
    """Of a list with one item replaced."""
    return tokens * n * _entropy(1 / n) - log2(n)


def insert_bits(n: int) -> float:
    """Of a list with one item more."""
    return n * log2(n + 1) - 2 / (n + 1) * sum(j * log2(j) for j in range(1, n + 1))


def remove_bits(n: int) -> float:
    """Of a list with one item less."""
    return (n - 2) * log2(n) - 2 / n * sum(j * log2(j) for j in range(1, n))


def latin_bits(n: int) -> float:
    """Of a Latin square."""
    return n * n * log2(n) - log2(LATIN_SQUARES[n])


# Several steps, tokens drawn. The order of positions does not matter for these two.


def shuffle_in(sizes: Sequence[int]) -> Fraction:
    """Each block is drawn from what is left, any permutation counts."""
    return Fraction(factorial(sum(sizes)), prod(r**s for r, s in zip(left_before(sizes), sizes, strict=True)))


def shuffle_in_bits(sizes: Sequence[int]) -> float:
    """Correlation that the blocks leave out: the accuracy is 2 to the minus this."""
    left = left_before(sizes)
    return sum(s * log2(r) for r, s in zip(left, sizes, strict=True)) - log2(factorial(sum(sizes)))


def other_shuffle_in(sizes: Sequence[int], best: bool = False) -> Fraction:
    """Drawn from all permutations but the given order, or (``best``) the most probable items, ties broken at random.

    Once an item has moved any order of the rest is right; as long as none has, the rest is the same task.
    """
    r = sum(sizes)
    if r < 2:
        return Fraction(0)  # the last item has nowhere to go
    stay, move = (Fraction(0), Fraction(1, r - 1)) if best else _stay_and_move(r)
    s, rest = sizes[0], sizes[1:]
    moved = sum((comb(s, f) * _moved(s - f, r - f) * stay**f * move ** (s - f) for f in range(s)), Fraction(0))
    return moved * shuffle_in(rest) + stay**s * other_shuffle_in(rest, best)


def replace_in(sizes: Sequence[int]) -> Fraction:
    """One place of a block draws the newcomer and the rest is settled, or none does and the rest is the same task."""
    accuracy = Fraction(0)
    for r, s in zip(reversed(left_before(sizes)), reversed(sizes), strict=True):
        none = Fraction(r - 1, r) ** s
        one = Fraction(s, r) * Fraction(r - 1, r) ** (s - 1)
        accuracy = one + none * accuracy
    return accuracy


def replace_in_bits(sizes: Sequence[int]) -> float:
    """Correlation that the blocks leave out; a block counts as far as the newcomer has no place before it."""
    n, bits = sum(sizes), 0.0
    for r, s in zip(left_before(sizes), sizes, strict=True):
        none = (r - s) / r
        bits += r / n * (s * _entropy(1 / r) - s / r * log2(r) + (none * log2(none) if none else 0.0))
    return bits


# Several steps, the best token taken, ties broken at random.


def replace_greedy_in(sizes: Sequence[int]) -> Fraction:
    """Items are kept while more than two places are open, so that the last block decides (n > 2)."""
    return {1: Fraction(1), 2: Fraction(1, 2)}.get(sizes[-1], Fraction(0))


# Which blocks are best.


def best_sizes(n: int, steps: int, bits: Callable[[Sequence[int]], float]) -> tuple[float, Sizes]:
    """The least correlation left out by so many blocks, and their sizes."""
    return min((bits(sizes), sizes) for sizes in _compositions(n, steps))


def _compositions(n: int, parts: int) -> Iterator[Sizes]:
    if parts == 1:
        yield (n,)
        return
    for first in range(1, n - parts + 2):
        for rest in _compositions(n - first, parts - 1):
            yield (first, *rest)


def _stay_and_move(n: int) -> tuple[Fraction, Fraction]:
    """Probability of an item in its own place, and in any other one, when the given order is ruled out."""
    others = factorial(n) - 1
    return Fraction(factorial(n - 1) - 1, others), Fraction(factorial(n - 1), others)


def _derangements(n: int) -> int:
    """Permutations without a fixed point."""
    return _moved(n, n)


def _moved(places: int, items: int) -> int:
    """Ways to put different ``items`` on some of their own places, none where it belongs."""
    ways = ((-1) ** i * comb(places, i) * factorial(items - i) for i in range(places + 1))
    return sum(ways) // factorial(items - places)


def _entropy(p: float) -> float:
    """Binary entropy in bits."""
    return -sum(q * log2(q) for q in (p, 1 - p) if q > 0)
