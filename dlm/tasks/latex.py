"""The final answers of competition mathematics: found, put into one form, compared.

Two answers are the same when their normal forms are (the rules of Minerva, arXiv 2206.14858, appendix D, in our own
words), or their values: exactly where they are rational, else at three fixed points of their letters, to nine digits.
There is no computer algebra here, so that no answer takes long. Held against the verdicts of lm-evaluation-harness and
``math_verify`` in ``tests/data/math/pairs.jsonl``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dlm.tasks.expressions import equal

LONGEST = 300  # characters of an answer whose parts and value are looked at

_FURTHEST, _TRIED = 1000, 4  # characters that an answer may be written in, and boxes that may be open at the end

_UNITS = (
    "square|cubic|dollars?|cents?|mph|inch(?:es)?|in|ft|foot|feet|hours?|minutes?|seconds?|days?|km|cm|mm|gm|kg|m|units?|points?"
    "|digits?|degrees?|pounds?|met(?:er|re)s?|meals|edges|students|multiples|ways|integers|miles?|yards?|radians?"
)
_WORDS = re.compile(rf"(?<=[\d}}\])])\s*(?:(?:{_UNITS})\b\s*(?:\^\{{?\d\}}?)?[\s/]*)+$|\s*(?:\bper\b.*)$")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|mbox|mathrm|mathbf|operatorname|emph|boxed)\s*\{([^{}]*)\}")
_TRAILING = re.compile(r"(?<=\S)\s*(?:\\(?:text|mbox|mathrm)\s*\{[^{}]*[a-zA-Z][^{}]*\}(?:\^\{?\d\}?)?)\s*$")
_JOINED = re.compile(r"\\(?:text|mbox)\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b")
_BLANKS = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\\(?:left|right|displaystyle|limits|[bB]igg?[lr]?)(?![a-zA-Z])")
_GAPS = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])|\s+")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\circ(?![a-zA-Z])|\\degree|°")
_NAMED = re.compile(
    r"^\s*(?:(?:[a-zA-Z](?:_\{?\w\}?)?(?:\([a-z]\))?|\([a-z](?:,\s*[a-z])*\))\s*(?:=|\\in(?![a-zA-Z])))+"
)
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|\s([^$\n]+))")
_PHRASE = "final answer is"
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*?)\\end\{\1\}")


def boxed(text: str) -> str | None:
    """What the last ``\\boxed{}`` holds that is closed, of the last few; None: there is none."""
    for mark in list(_BOX.finditer(text))[: -_TRIED - 1 : -1]:
        if mark[1] is not None:
            return mark[1].strip()
        depth = 1
        for place in range(mark.end(), min(len(text), mark.end() + _FURTHEST)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[mark.end() : place]
    return None


def phrased(text: str) -> str | None:
    """What stands behind the last "final answer is", as Minerva's worked examples end, without dollar signs around."""
    start = text.lower().rfind(_PHRASE)
    if start < 0:
        return None
    line = text[start + len(_PHRASE) :].lstrip(": ")[:_FURTHEST].partition("\n")[0].partition("I hope it is")[0]
    return line.strip().rstrip(".").strip("*$ ").rstrip(".") or None


def normal(answer: str) -> str:
    """One form of an answer: no units, no blanks, no dress; fractions and roots with their braces."""
    text = answer.strip().strip("$").strip()
    text = re.sub(r"\\\(|\\\)|\\\$|\$", "", text)
    text = _BLANKS.sub(lambda gap: "" if gap[0] == "\\!" else " ", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text).replace("{,}", ",")
    text = re.sub(r"(?<![\\a-zA-Z])(?=(?:sqrt|pi)(?![a-zA-Z]))", r"\\", text)
    text = _JOINED.sub(",", text)
    text = _TRAILING.sub("", text) if not re.match(r"\s*\\(?:text|mbox)", text) else text
    while (plain := _TEXT.sub(lambda words: words[1].strip(), text)) != text:
        text = plain
    text = _WORDS.sub("", _DEGREES.sub("", text).replace("\\%", "").replace("%", "").strip().rstrip("."))
    text = re.sub(r"\s*,[\s,]*", ",", re.sub(r"^\s*(?:an?|the)\s+", "", text))
    text = _NAMED.sub("", text) if "," not in text or text[-1:] in ")]}" else text
    text = re.sub(r"\\([lgn])eq?(?![a-zA-Z])", r"\\\1e", text).replace("\u2212", "-")
    text = _GAPS.sub(lambda gap: f"{gap[1]} " if gap[1] else "", text)  # \pi r is not \pir
    text = re.sub(r"([\^_])\{([0-9a-zA-Z])\}", r"\1\2", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt(\[[^\]]*\])?(\d|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt\1{\2}", text)
    if letter := re.fullmatch(r"\(?([A-Z])\)?", text):
        return letter[1]
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def same(answer: str, right: str) -> bool:
    """Whether two answers are one: as texts, as values, or part by part as tuples, intervals, sets and matrices.

    A list without brackets and a set are equal in any order; ``50\\%`` is 50; degrees and units do not count.
    """
    return max(len(answer), len(right)) <= _FURTHEST and _same(normal(answer), normal(right))


def _same(one: str, other: str) -> bool:
    if one.casefold() == other.casefold():
        return bool(one)
    if max(len(one), len(other)) > LONGEST:
        return False
    (kind, parts), (kind_of_other, others) = _parts(one), _parts(other)
    if kind != kind_of_other or len(parts) != len(others):
        return False
    if kind == "atom":
        return equal(one, other)
    if kind in ("set", "union"):
        left = list(others)
        for part in parts:
            fitting = next((place for place, candidate in enumerate(left) if _same(part, candidate)), None)
            if fitting is None:
                return False
            del left[fitting]
        return True
    return all(map(_same, parts, others))


def _parts(text: str) -> tuple[str, Sequence[str]]:
    """What an answer is made of: the kind (brackets included), and its parts in order; ``atom``: nothing smaller."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[2]) if row]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if len(union := _split(text, "\\cup")) > 1:
        return "union", union
    if len(items := _split(text, ",")) > 1:
        name, equals, _ = items[0].partition("=")
        alike = bool(equals) and all(item.startswith(f"{name}=") for item in items)  # x=3,x=-3
        return "set", [item.removeprefix(f"{name}=") if alike else item for item in items]
    if "\\pm" in text and text.count("\\pm") == 1:
        return "set", [text.replace("\\pm", "+"), text.replace("\\pm", "-")]
    if braces := re.fullmatch(r"\\(?:\{|lbrace)(.*)\\(?:\}|rbrace)", text):
        return "set", _split(braces[1], ",")
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and len(items := _split(text[1:-1], ",")) > 1:
        return text[0] + text[-1], items
    return "atom", [text]


def _split(text: str, mark: str) -> list[str]:
    """A text at a mark outside all brackets."""
    pieces, depth, start, place = [], 0, 0, 0
    while place < len(text):
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(text[place], 0)
        if not depth and text.startswith(mark, place):
            pieces.append(text[start:place])
            start = place = place + len(mark)
        else:
            place += 1
    return [*pieces, text[start:]]
