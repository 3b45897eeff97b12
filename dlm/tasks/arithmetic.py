"""Additions with written-out carries."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm.tasks.base import Draft, Instance, Stream, Verdict
from dlm.tasks.reading import kept


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
