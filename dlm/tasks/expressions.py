"""The values of written expressions: exact where they are rational, else at fixed points of their letters.

Two expressions that agree at three points to nine digits are taken for equal: there is no computer algebra here, and
the work is linear in the text.
"""

from __future__ import annotations

import cmath
import hashlib
import math
import re
from collections.abc import Callable
from fractions import Fraction

_LARGEST = 10_000  # bits of a power that is taken exactly
_POINTS = 3
Number = Fraction | complex


def equal(one: str, other: str) -> bool:
    """Whether two expressions have one value. False: one of them is none, or too large."""
    values, of_other = _values(one), _values(other)
    return values is not None and of_other is not None and all(map(_close, values, of_other))


def _values(text: str) -> list[Number] | None:
    if not text or re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", text):
        return None  # words
    try:
        return [_Reader(text, point).whole() for point in range(_POINTS)]
    except (ArithmeticError, ValueError, IndexError, RecursionError):
        return None


def _close(one: Number, other: Number) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    one, other = complex(one), complex(other)
    return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))


_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "cot": lambda x: 1 / cmath.tan(x), "exp": cmath.exp,
    "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x), "arcsin": cmath.asin, "ln": cmath.log,
    "arccos": cmath.acos, "arctan": cmath.atan, "log": cmath.log10,
}  # fmt: skip


_LETTERS = re.compile(
    r"alpha|beta|(var)?epsilon|zeta|eta|(var)?theta|iota|kappa|mu|nu|rho|tau|(var)?phi|chi|ell|infty"
    r"|[gG]amma|[dD]elta|Theta|[lL]ambda|[xX]i|[sS]igma|[uU]psilon|Phi|[pP]si|[oO]mega"
)


class _Reader:
    """Reads an expression from left to right: sums of products of powers."""

    def __init__(self, text: str, point: int) -> None:
        self.text, self.at, self.point = text, 0, point

    def whole(self) -> Number:
        found = self.sum()
        if self.at < len(self.text):
            raise ValueError
        return found

    def take(self, pattern: str) -> re.Match[str] | None:
        found = re.compile(pattern).match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found

    def sum(self) -> Number:
        total = self.product()
        while sign := self.take(r"[+-]"):
            total += -self.product() if sign[0] == "-" else self.product()
        return total

    def product(self) -> Number:
        if sign := self.take(r"[+-]"):
            return self.product() if sign[0] == "+" else -self.product()
        mixed = re.compile(r"\d+(?=\\frac\{?\d+\}?\{?\d+\}?(?![\^\d]))").match(self.text, self.at)
        total = self.power()
        if mixed and mixed.end() == self.at:
            total += self.power()  # 3\frac{1}{2}
        while True:
            if sign := self.take(r"(\\cdot|\\times|\\div)(?![a-zA-Z]) ?|[*/]"):
                factor = self.power()
                total *= 1 / factor if sign[0].strip() in ("/", "\\div") else factor
            elif re.compile(r"[\\\w({\[.]").match(self.text, self.at) and self.text[self.at] != "_":
                total *= self.power()
            else:
                return total

    def power(self) -> Number:
        base = self.base()
        while mark := self.take(r"\^|!"):
            if mark[0] == "^":
                base = _raise(base, self.argument())
            elif isinstance(base, Fraction) and base.denominator == 1 and 0 <= base <= 200:
                base = Fraction(math.factorial(int(base)))
            else:
                raise ValueError
        return base

    def argument(self) -> Number:
        """What stands in braces, or the next sign alone."""
        if self.take(r"\{"):
            found = self.sum()
            self.closed(r"\}")
            return found
        digit = self.take(r"\d")
        return Fraction(digit[0]) if digit else self.base()

    def closed(self, pattern: str) -> None:
        if not self.take(pattern):
            raise ValueError

    def base(self) -> Number:
        if number := self.take(r"\d+(?:\.\d*)?|\.\d+"):
            if self.text[self.at : self.at + 1] == "_":
                raise ValueError  # a number in another base
            return Fraction(number[0].rstrip("."))
        if opened := self.take(r"[({\[|]"):
            found = self.sum()
            self.closed({"(": r"\)", "{": r"\}", "[": r"\]", "|": r"\|"}[opened[0]])
            return complex(abs(complex(found))) if opened[0] == "|" else found
        if self.take(r"-"):
            return -self.base()
        named = self.take(r"\\([a-zA-Z]+) ?")
        return self.command(named[1]) if named else self.letter()

    def letter(self) -> complex:
        name = self.take(r"[a-zA-Z](?:_(?:\w|\{\w+\}))?")
        if name is None or (name[0][0] in "fghFGHP" and self.text[self.at : self.at + 1] == "("):
            raise ValueError  # f(2) is no product
        known = {"i": 1j, "e": complex(math.e)}
        return known[name[0]] if name[0] in known else _place(name[0], self.point)

    def command(self, name: str) -> Number:
        if name == "frac":
            return self.argument() * (1 / self.argument())
        if name == "sqrt":
            degree: Number = Fraction(2)
            if self.take(r"\["):
                degree = self.sum()
                self.closed(r"\]")
            return _raise(self.argument(), 1 / degree)
        if name == "pi":
            return complex(math.pi)
        if _LETTERS.fullmatch(name):
            return _place(name, self.point)
        if name not in _FUNCTIONS:
            raise ValueError  # an accent, an operator, a relation: what it does to its neighbours is not known
        to_base = complex(self.argument()) if name == "log" and self.take("_") else None
        exponent = self.argument() if self.take(r"\^") else Fraction(1)
        begin = self.at
        argument = complex(self.power())
        if self.text[begin : self.at].isdigit() and re.compile(r"[a-zA-Z\\]").match(self.text, self.at):
            argument *= complex(self.power())  # the sine of 2x is of both
        found = _FUNCTIONS[name](argument) if to_base is None else cmath.log(argument) / cmath.log(to_base)
        return _raise(found, exponent)


def _place(name: str, point: int) -> complex:
    """The value of a letter at a point, between 1 and 2."""
    digest = hashlib.sha256(f"{name} {point}".encode()).digest()
    return complex(1 + int.from_bytes(digest[:4], "big") / 2**32)


def _raise(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) > _LARGEST:
            raise OverflowError
        return base ** int(exponent)
    return complex(base) ** complex(exponent)
