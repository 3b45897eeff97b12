"""Word problems in the manner of GSM8K: two steps, small numbers, the calculation written out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm.tasks.base import Draft, Instance, Stream, Verdict
from dlm.tasks.reading import kept
from dlm.tasks.waiting_line import NAMES

THINGS = ("apples", "books", "coins", "pens", "cards", "stamps", "eggs", "shells")
# (what happens, sign) pairs; {n} is the number.
CHANGES = (
    ("finds {n} more", 1),
    ("buys {n} more", 1),
    ("gets {n} from a friend", 1),
    ("loses {n}", -1),
    ("gives away {n}", -1),
    ("sells {n}", -1),
)


@dataclass(frozen=True)
class WordProblem:
    """Somebody has some things, two things happen, how many are left? The answer is stated as ``The answer is N.``"""

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
        steps = (
            f"{start}{'+' if first[1] > 0 else '-'}{one}={middle}, {middle}{'+' if second[1] > 0 else '-'}{two}={end}."
        )
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
