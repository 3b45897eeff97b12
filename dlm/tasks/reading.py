"""Parsers: what an answer says, read loosely (the headline) or strictly (ParallelBench, arXiv 2510.04767).

An answer may be any text of any length: the work is linear in it, and what is read out is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

MOST_ITEMS = 256  # more than any right answer has: a list cut here is wrong for its length
KEPT_ITEMS = 40  # of what was read, this much is written down
KEPT_CHARACTERS = 80


def loose_list(text: str) -> list[str]:
    """What stands between the last ``[`` and the first ``]`` after it, either may be missing, split at commas; blanks
    and straight double quotes around an item do not count, nor do empty items."""
    pieces = (found[0].strip(' "\n\t\r') for found in re.finditer(r"[^,]+", _inside(text)))
    return list(islice(filter(None, pieces), MOST_ITEMS))


def strict_list(text: str) -> list[str] | None:
    """The same place with both brackets there, items in straight double quotes, comma and blank between them; None:
    anything else."""
    start = text.rfind("[")
    if start < 0 or "]" not in text[start:]:
        return None
    pieces = _inside(text).split(", ", MOST_ITEMS)
    quoted = all(len(p) > 1 and p[0] == p[-1] == '"' and p.count('"') == 2 for p in pieces)
    return [piece[1:-1] for piece in pieces] if quoted else None


def _inside(text: str) -> str:
    return text.rsplit("[", 1)[-1].split("]", 1)[0]


def published_list(text: str) -> list[str]:
    """The loose parser to the letter of the published scorer: only blanks and quotes are stripped, no line ends, and a
    pair of quotes with nothing inside is an item."""
    pieces = (found[0] for found in re.finditer(r"[^,]+", _inside(text)))
    return list(islice((piece.strip('" ') for piece in pieces if piece.strip()), MOST_ITEMS))


def loose_digits(text: str, n: int = 4) -> list[str] | None:
    """The digits of the lines that have exactly ``n`` of them; None unless there are exactly ``n`` such lines."""
    digits = (re.sub(r"[^0-9]+", "", line) for line in filter(None, text.splitlines()))
    rows = list(islice((row for row in digits if len(row) == n), n + 1))
    return rows if len(rows) == n else None


def strict_digits(text: str, n: int = 4) -> list[str] | None:
    """``n`` lines of ``n`` digits and nothing else but blanks around a line; None: anything else."""
    rows = [line.strip() for line in text.strip().split("\n", MOST_ITEMS) if line.strip()]
    right = len(rows) == n and all(len(row) == n and row.isascii() and row.isdigit() for row in rows)
    return rows if right else None


def loose_rows(text: str, symbols: Sequence[str]) -> list[list[str]]:
    """The first n lines whose cells between commas are the n symbols, in any order and number."""
    wanted = set(symbols)
    lines = (line for line in filter(None, text.splitlines()) if "," in line)
    rows = ([cell.strip() for cell in line.split(",", MOST_ITEMS)] for line in lines)
    return list(islice((row for row in rows if set(row) == wanted), len(symbols)))


def strict_rows(text: str, symbols: Sequence[str]) -> list[list[str]] | None:
    """n lines of n symbols with a bare comma between them and nothing else; None: anything else."""
    n = len(symbols)
    rows = [line.split(",", n) for line in text.strip().split("\n", n)]
    return rows if len(rows) == n and all(len(row) == n and set(row) <= set(symbols) for row in rows) else None


def kept(items: Iterable[str]) -> list[str]:
    """The items as they are written down: a few, none of them long."""
    short = (item if len(item) <= KEPT_CHARACTERS else item[:KEPT_CHARACTERS] + "..." for item in items)
    return list(islice(short, KEPT_ITEMS))
