"""Text for a person: nothing that commands a terminal, and numbers with their nouns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, invisible and turning marks, halves of characters, line ends
_JOINERS = "\u200c\u200d"  # parts of words and of pictures in some scripts
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def visible(text: str, keep: str = "") -> str:
    """A text as a terminal, a page or a picture can show it: a control character becomes its escape, as ``\\x1b``.

    Args:
        keep: characters that stay as they are: ``"\\n\\t"`` for a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign in keep or not _unseen(sign) else _escape(sign) for sign in text)


def _unseen(sign: str) -> bool:
    return (unicodedata.category(sign) in _HIDDEN and sign not in _JOINERS) or ord(sign) & 0xFFFE == 0xFFFE


def _escape(sign: str) -> str:
    number = ord(sign)
    width, mark = (2, "x") if number < 0x100 else (4, "u") if number < 0x10000 else (8, "U")
    return _ESCAPES.get(sign, f"\\{mark}{number:0{width}x}")


def counted(n: int, noun: str, nouns: str = "") -> str:
    """``1 answer``, ``2 answers``, ``1,000 answers``; ``nouns``: the plural, where it is not the noun with an s."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}"


def nearest(given: object, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names nearest to what was given: those that end with it behind a slash or a dot, else those that are
    spelt much like it, else those that end so."""
    word, names = str(given), list(known)
    ends = {re.split("[/.]", name)[-1]: name for name in reversed(names)}
    close = [] if word in ends else get_close_matches(word, names, most, cutoff)
    return close or [ends[end] for end in get_close_matches(word, ends, most, cutoff)]


def meant(given: object, known: Iterable[str]) -> str:
    """`` (did you mean NAME?)``, nothing where no known name is near: for the refusal of a name."""
    near = nearest(given, known)
    return f" (did you mean {near[0]}?)" if near else ""


def unknown_name(kind: str, given: object, known: Iterable[str]) -> str:
    """That there is no ``kind`` of that name, the nearest one, and all there are."""
    names = list(known)
    return f"unknown {kind} {given!r}{meant(given, names)}; known are {', '.join(names)}"


def not_among(key: str, given: object, known: Iterable[str]) -> str:
    """That a setting takes other words, which, and the nearest."""
    names = list(known)
    return f"{key} must be one of {', '.join(names)}, got {given!r}{meant(given, names)}"
