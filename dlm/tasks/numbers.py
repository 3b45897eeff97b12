"""The number that an answer to a word problem ends on, read as a number and never as a float.

An answer may be any text of any length: the work is linear in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from fractions import Fraction

LONGEST = 200  # characters of a number; a longer one is no answer to anything, and slow to compare
_BLANK = "[ \t]"
_SIGNS = dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\u207b\ufe63\uff0d", "-")  # dashes typed for a minus
# Digits with what may stand between them; thousands may be set apart by a blank, which starts no number by itself.
_RUN = r"(?:(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d])(?:[.,]\d+)?|\.?\d+(?:[.,]\d+)*)(?:[eE][+-]?\d{1,3}(?!\w|\.\d))?"
_MINUS = r"(?P<minus>(?<![\w)\]}$%])-(?=[$\u20ac\u00a3\\.\d]))?"
_NUMBER = re.compile(rf"{_MINUS}(?:\\?[$\u20ac\u00a3] ?)?(?P<inner>(?<=[$\u20ac\u00a3])-)?(?P<run>{_RUN})")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{?(\d{1,15})\}?\{?(\d{1,15})\}?|(-?)(\d{1,15}) ?/ ?(\d{1,15})(?![\d/]|[.,]\d)")
_FORMS = (
    (re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?"), ",", "."),  # 9,500.5
    (re.compile(r"\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"), ",", "."),  # 1,00,000 as in India
    (re.compile(r"\d{1,3}(?: \d{3})+\.\d+|\d{1,3}(?: \d{3})+"), " ", "."),
    (re.compile(r"\d*\.?\d+"), "", "."),
    (re.compile(r"\d{1,3}(?: \d{3})+,\d+"), " ", ","),
    (re.compile(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}\.\d{3},\d+"), ".", ","),
    (re.compile(r"\d+,\d+"), "", ","),  # 1,8 is one and eight tenths somewhere, and 18 nowhere
)
# What may stand between a mark and its number: emphasis, mathematics, brackets, currencies.
_DRESS = r"(?:[*_`~({\[:=<>\"' \t\\$\u20ac\u00a3]|\\[a-z]+){0,20}"
_WORDS = r"[A-Za-z ]{0,40}(?:[:=]|\bis\b)"
_MARKS = re.compile(rf"####(?!#)(?:{_BLANK}*\n)?(?={_DRESS}-?{_BLANK}?{_DRESS}\.?\d|{_WORDS}{_DRESS}-?{_DRESS}\.?\d)")
_BOXES = re.compile(r"\\(?:boxed|f(?:rame)?box)(?:\s*\{|\s+(?=-?\d))")
_SAID = re.compile(rf"\banswer(?: is|:| =)(?={_DRESS}-?{_DRESS}\.?\d)", re.IGNORECASE)
_SUM = re.compile(r"[\d.,$\u20ac\u00a3 \t()]*[-+*/x\u00d7\u00f7][\d.,$\u20ac\u00a3 \t()*/x\u00d7\u00f7+-]*=")
# Whoever speaks next: special tokens of chat templates, and names with a colon at the start of a line.
_TOKEN = r"<[|\uff5c][^|\uff5c<>\n]{1,40}[|\uff5c]>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|<eos>"
_SPEAKERS = "question|q|problem|human|user|assistant|instruction|input|student|teacher"
_TURN = re.compile(
    rf"{_TOKEN}|^[ \t#*>]*"
    rf"(?:(?:{_SPEAKERS}){_BLANK}?\d*{_BLANK}?[*]*:|(?:question|problem){_BLANK}\d+[*]*[.)]?{_BLANK}*$)",
    re.MULTILINE | re.IGNORECASE,
)
_OWN_TURN = re.compile(rf"\s*(?:(?:{_TOKEN})\s*(?:assistant|model)?\s*)+")


def first_turn(text: str) -> str:
    """What belongs to the answer itself: not what a model goes on to write for the next speaker, in whatever form. A
    mark at the very beginning is the answer's own."""
    own = _OWN_TURN.match(text)
    text = text[own.end() if own else 0 :].lstrip()
    following = _TURN.search(text, 1)
    return text[: following.start()] if following else text


def plain(text: str) -> str:
    """A text with ASCII digits, minus signs, blanks and thousands: what is invisible is gone."""
    if not text.isascii():
        text = "".join(map(_ascii, text))
    text = text.replace("{,}", ",").replace("\\!", "")
    text = re.sub(r"(?<=\d)['\u2019_](?=\d{3}(?!\d))", "", text)  # 1'000 in Switzerland
    text = re.sub(r"(?<![\d)] )\b(?:minus|negative) (?=[$\u20ac\u00a3]?\.?\d)", "-", text, flags=re.IGNORECASE)
    return re.sub(r"(?<=\d)\\[,; ](?=\d)", " ", text)


def _ascii(sign: str) -> str:
    if sign.isascii():
        return sign
    kind = unicodedata.category(sign)
    if kind == "Nd":
        return str(unicodedata.decimal(sign))
    if kind in ("Zs", "Cf"):
        return " " if kind == "Zs" else ""
    if "\uff01" <= sign <= "\uff5e" and sign != "\uff0d":
        return chr(ord(sign) - 0xFEE0)
    return _SIGNS.get(sign, sign)


def stated(text: str) -> str | None:
    """The number an answer ends on, as it is written (:func:`plain`); None: there is none.

    That behind the last ``####``, else in the last ``\\boxed{}``, else behind the last "answer is", else the last one.
    Where a sum is written out there, what it comes to.
    """
    text = plain(text)
    for marks in (_MARKS, _BOXES, _SAID):
        for mark in reversed(list(marks.finditer(text))):
            if (found := _first(text, mark.end())) is not None:
                return found
    last, parts = (deque(kind.finditer(text), maxlen=1) for kind in (_NUMBER, _FRACTION))
    if parts and parts[0].end() >= last[0].end():
        return parts[0][0]
    return _written(last[0]) if last else None


def _first(text: str, at: int) -> str | None:
    """The number that stands right behind a mark."""
    rest = text[at : at + 2 * LONGEST]
    line = rest.lstrip().split("\n", 1)[0]
    line = line.replace("- ", "-", 1) if re.match(rf"{_DRESS}- ", line) else line
    begun = re.search(r"[-.\d\\$\u20ac\u00a3]", line)
    line = line[begun.start() :] if begun else ""
    if total := _SUM.match(line.lstrip("\\$")):
        line = line.lstrip("\\$")[total.end() :]
    number, part = _NUMBER.search(line), _FRACTION.search(line)
    if part is not None and (number is None or part.start() <= number.start()):
        return part[0]
    return None if number is None else _written(number)


def _written(number: re.Match[str]) -> str:
    return ("-" if number["minus"] or number["inner"] else "") + number["run"]


def value(written: str) -> Fraction | None:
    """A number as :func:`stated` gives it, exactly; None: it is none, such as ``1,2,3``."""
    written = written.replace("\\$", "").replace("$", "").strip().rstrip(".,")
    if len(written) > LONGEST:
        return None
    if part := _FRACTION.fullmatch(written):
        sign, above, below = part.groups()[:3] if part[2] else part.groups()[3:]
        return Fraction(int(sign + above), int(below)) if int(below) else None
    sign, digits = ("-", written[1:]) if written[:1] == "-" else ("", written)
    digits, power = (digits.lower().partition("e")[0], digits.lower().partition("e")[2])
    for form, apart, point in _FORMS:
        if form.fullmatch(digits):
            whole = digits.replace(apart, "") if apart else digits
            return Fraction(f"{sign}{whole.replace(point, '.')}" + (f"e{power}" if power else ""))
    return None
