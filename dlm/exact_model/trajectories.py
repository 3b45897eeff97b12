"""Every course a decoder with exact marginals can take, with its probability: small cases without a formula.

Independent of the decoder. A canvas is a tuple of tokens, None where a place is open; an accuracy is a Fraction.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from math import log2, prod
from typing import Literal

from dlm.exact_model.answers import Answer

Canvas = tuple[str | None, ...]
Order = Literal["random", "left_to_right", "confidence"]


def consistent(answers: Sequence[Answer], canvas: Canvas) -> list[Answer]:
    """The answers that agree with what is filled in."""
    known = [(i, token) for i, token in enumerate(canvas) if token is not None]
    return [answer for answer in answers if all(answer[i] == token for i, token in known)]


def marginals(answers: Sequence[Answer], canvas: Canvas) -> list[dict[str, Fraction]]:
    """Per position what each token's probability is, answers equally likely; empty where no answer agrees."""
    rest = consistent(answers, canvas)
    laws: list[dict[str, Fraction]] = []
    for place in range(len(canvas)):
        column = [answer[place] for answer in rest]
        laws.append({token: Fraction(column.count(token), len(rest)) for token in dict.fromkeys(column)})
    return laws


def drawn(answers: Sequence[Answer], sizes: Sequence[int], order: Order = "random") -> Fraction:
    """Probability of a right answer with drawn tokens, in blocks of these sizes.

    A right answer comes out iff each of its tokens is drawn where it belongs, so its probability is a product along the
    way, the mean over ways when the order is random. Confidences play no part: ``order`` is one of the other two.
    """
    length = len(answers[0])

    @cache
    def rest(answer: Answer, known: frozenset[int], step: int) -> Fraction:
        if step == len(sizes):
            return Fraction(1)
        laws = marginals(answers, tuple(token if i in known else None for i, token in enumerate(answer)))
        total, ways = Fraction(0), 0
        for block in _blocks(set(range(length)) - known, sizes[step], order):
            ways += 1
            here = prod((laws[i][answer[i]] for i in block), start=Fraction(1))
            total += here * rest(answer, known | frozenset(block), step + 1)
        return total / ways

    return sum((rest(answer, frozenset(), 0) for answer in answers), Fraction(0))


def greedy(answers: Sequence[Answer], sizes: Sequence[int], order: Order = "random") -> Fraction:
    """Probability of a right answer when each place takes its most probable token; ties, of tokens and of places, are
    broken at random, each place on its own."""

    @cache
    def rest(canvas: Canvas, step: int) -> Fraction:
        if not consistent(answers, canvas):
            return Fraction(0)
        if step == len(sizes):
            return Fraction(1)
        laws = marginals(answers, canvas)
        best = [[token for token, p in law.items() if p == max(law.values())] for law in laws]
        still = {i for i, token in enumerate(canvas) if token is None}
        total, ways = Fraction(0), 0
        for block in _blocks(still, sizes[step], order, [max(law.values()) for law in laws]):
            choices = [best[i] for i in block]
            after = [rest(_filled(canvas, block, tokens), step + 1) for tokens in itertools.product(*choices)]
            total += sum(after, Fraction(0)) / len(after)
            ways += 1
        return total / ways

    return rest((None,) * len(answers[0]), 0)


def lost_bits(answers: Sequence[Answer], blocks: Sequence[Sequence[int]]) -> float:
    """Total correlation within each block given the blocks before it, in expectation, summed (the L_T of spec 3.1)."""
    known: list[int] = []
    bits = 0.0
    for block in blocks:
        groups: dict[Answer, list[Answer]] = {}
        for answer in answers:
            groups.setdefault(tuple(answer[i] for i in known), []).append(answer)
        for group in groups.values():
            single = sum(_entropy([answer[i] for answer in group]) for i in block)
            joint = _entropy([tuple(answer[i] for i in block) for answer in group])
            bits += len(group) / len(answers) * (single - joint)
        known += block
    return bits


def _entropy(values: Sequence[object]) -> float:
    shares = [values.count(value) / len(values) for value in set(values)]
    return -sum(p * log2(p) for p in shares)


def _filled(canvas: Canvas, block: Sequence[int], tokens: Sequence[str]) -> Canvas:
    new = dict(zip(block, tokens, strict=True))
    return tuple(new.get(i, token) for i, token in enumerate(canvas))


def _blocks(still: set[int], size: int, order: Order, confidence: Sequence[Fraction] = ()) -> Iterator[tuple[int, ...]]:
    """The blocks that may come next, equally likely."""
    places = sorted(still)
    if order == "left_to_right":
        yield tuple(places[:size])
        return
    if order == "random":
        yield from itertools.combinations(places, size)
        return
    last = sorted((confidence[i] for i in places), reverse=True)[size - 1]
    sure = [i for i in places if confidence[i] > last]
    tied = [i for i in places if confidence[i] == last]
    for more in itertools.combinations(tied, size - len(sure)):
        yield (*sure, *more)
