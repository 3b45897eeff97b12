"""Additions with written-out carries, and word problems in the manner of GSM8K: two steps, small numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm.tasks.base import Draft, Instance, Stream, Verdict
from dlm.tasks.people import NAMES
from dlm.tasks.reading import kept

THINGS = ("apples", "books", "coins", "pens", "cards", "stamps", "eggs", "shells")
# (what happens, sign) pairs; {n} is the number.
CHANGES = (
    ("finds {n} more", 1), ("buys {n} more", 1), ("gets {n} from a friend", 1),
    ("loses {n}", -1), ("gives away {n}", -1), ("sells {n}", -1),
)  # fmt: skip


def written_out(a: int, b: int) -> str:
    """The columns from the right, the carry as a third summand, then the sum: ``47+85`` gives
    ``7+5=12,4+8+1=13,132``."""
    columns, carry = [], 0
    digits = max(len(str(a)), len(str(b)))
    for i in range(digits):
        x, y = a // 10**i % 10, b // 10**i % 10
        columns.append(f"{x}+{y}" + (f"+{carry}" if carry else "") + f"={x + y + carry}")
        carry = (x + y + carry) // 10
    return ",".join([*columns, str(a + b)])


@dataclass(frozen=True)
class Addition:
    """Two numbers of two or three digits each; the answer writes out every column and ends with the sum."""

    name: str = "arithmetic/addition"
    canvas: int = 32

    def draw(self, stream: Stream) -> Draft:
        digits = stream.between(2, 3)
        a, b = (stream.between(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
        return Draft((a, b), f"{a}+{b}=", written_out(a, b), {"sum": a + b})

    def judge(self, instance: Instance, output: str) -> Verdict:
        numbers = re.findall(r"[0-9]+", output)
        if not numbers:
            return Verdict(0.0, error="unparsable")
        last = numbers[-1].lstrip("0") or "0"  # compared as text: int() refuses thousands of digits
        right = last == str(instance.meta["sum"])
        return Verdict(float(right), error=None if right else "wrong", parsed=kept([last])[0])


@dataclass(frozen=True)
class WordProblem:
    """Somebody has some things, two things happen, how many are left? The calculation is written out and the answer
    stated as ``The answer is N.``"""

    name: str = "math/word_problem"
    canvas: int = 48

    def draw(self, stream: Stream) -> Draft:
        who, thing = stream.choice(NAMES), stream.choice(THINGS)
        first, second = stream.choice(CHANGES), stream.choice(CHANGES)
        start = stream.between(5, 30)
        middle, one = self._apply(stream, start, first[1])
        end, two = self._apply(stream, middle, second[1])
        question = (
            f"{who} has {start} {thing}. {who} {first[0].format(n=one)} and then {second[0].format(n=two)}."
            f" How many {thing} does {who} have now?"
        )
        signs = ["+" if sign > 0 else "-" for _, sign in (first, second)]
        steps = f"{start}{signs[0]}{one}={middle}, {middle}{signs[1]}{two}={end}."
        content = (start, one, two, first[0], second[0])
        return Draft(content, question, f"{steps} The answer is {end}.", {"answer": end})

    @staticmethod
    def _apply(stream: Stream, value: int, sign: int) -> tuple[int, int]:
        n = stream.between(1, 20) if sign > 0 else stream.between(1, max(1, value - 1))
        return value + sign * n, n

    def judge(self, instance: Instance, output: str) -> Verdict:
        found = re.search(r"The answer is (-?)0*(\d+)", output)
        if found is None:
            return Verdict(0.0, error="unparsable")
        stated = found[1] + found[2]  # compared as text: int() refuses thousands of digits
        right = stated == str(instance.meta["answer"])
        return Verdict(float(right), error=None if right else "wrong", parsed=kept([stated])[0])
