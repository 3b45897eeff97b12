"""The names that queues are drawn from; packaged as ``people.json``."""

from __future__ import annotations

import json
from pathlib import Path

_LISTS = json.loads(Path(__file__).with_name("people.json").read_text(encoding="utf-8"))
# First names that stand alone, in the questions the packaged model was trained on.
NAMES: tuple[str, ...] = tuple(_LISTS["alone"])
# The benchmark's full names, 64 first names by 64 last names: frequent English ones, which the usual vocabularies hold
# in one or two tokens. ASCII, no name in both lists.
FIRST: tuple[str, ...] = tuple(_LISTS["first"])
LAST: tuple[str, ...] = tuple(_LISTS["last"])
POOL = tuple(f"{first} {last}" for first in FIRST for last in LAST)
