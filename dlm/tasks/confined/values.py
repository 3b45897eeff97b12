"""Values as text between a program and its judge: numbers, texts and containers of them, and nothing that can act.

An object of any other class arrives as something that equals nothing: what it says of itself does not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_VIEWS: Any = type({}.keys())


class Foreign:
    """What stands for a value that is not plain: equal to nothing, with the truth it had where it came from."""

    def __init__(self, name: str, truth: bool) -> None:
        self._name, self._truth = name, truth

    def __bool__(self) -> bool:
        return self._truth

    def __repr__(self) -> str:
        return f"<{self._name}>"


def dumped(value: Any) -> str:
    """A value as one line of JSON. Raises RecursionError: it is too deep, or holds itself."""
    return json.dumps(_packed(value))


def loaded(line: str) -> Any:
    """The inverse of :func:`dumped`; every number of a class of its own, no class but the plain ones. Raises
    ValueError, KeyError, TypeError, RecursionError: no such line."""
    return _unpacked(json.loads(line))


def _packed(value: Any) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return ["s", str.__str__(value)]
    if isinstance(value, int):
        return ["i", hex(value)]  # decimal digits are refused where there are thousands
    if isinstance(value, float):
        return ["f", float.__repr__(value)]
    if isinstance(value, complex):
        return ["c", float.__repr__(value.real), float.__repr__(value.imag)]
    if isinstance(value, bytes | bytearray):
        return ["b" if isinstance(value, bytes) else "a", bytes(value).hex()]
    if isinstance(value, dict):
        return ["d", [[_packed(key), _packed(item)] for key, item in dict.items(value)]]
    kinds: tuple[tuple[str, Any], ...] = (("l", list), ("t", tuple), ("h", set), ("z", frozenset), ("k", _VIEWS))
    for mark, kind in kinds:
        if isinstance(value, kind):
            return [mark, [_packed(item) for item in kind.__iter__(value)]]
    if isinstance(value, range):
        return ["r", value.start, value.stop, value.step]
    if isinstance(value, Iterator):
        return ["n", [_packed(item) for item in value]]
    return ["o", type(value).__name__[:80], bool(value)]


def _unpacked(packed: Any) -> Any:
    if packed is None or packed is True or packed is False:
        return packed
    mark, first, *rest = packed
    if mark == "i":
        return int(first, 16)
    if mark in ("s", "f"):
        return str(first) if mark == "s" else float(first)
    if mark == "c":
        return complex(float(first), float(rest[0]))
    if mark in ("b", "a"):
        return (bytes if mark == "b" else bytearray).fromhex(first)
    if mark == "r":
        return range(first, *rest)
    if mark == "o":
        return Foreign(str(first), rest[0] is True)
    if mark == "d":
        return {_unpacked(key): _unpacked(item) for key, item in first}
    items = [_unpacked(item) for item in first]
    if mark == "k":
        return dict.fromkeys(items).keys()
    makers: dict[str, Any] = {"l": list, "t": tuple, "h": set, "z": frozenset, "n": iter}
    return makers[mark](items)
