"""Values of settings held against the annotations of what they are for: one checker for every part, however it is made.

A whole number that was written 8.0 is 8, a number that was written 1 is 1.0; true is no number, and a text no list.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dlm.errors import SettingsError
from dlm.words import meant

Nested = Callable[[Any, Any, str], Any]  # (annotation, value, name) -> value, for values that stand for parts
DESCRIBED = " ({_target_: ..., ...})"
_LISTS = (collections.abc.Sequence, collections.abc.Iterable, list, tuple)


class _UnfitError(Exception):
    """The value is not of that kind."""


def checked(target: Any, values: Mapping[str, Any], name: str = "", nested: Nested | None = None) -> dict[str, Any]:
    """``values``, each of the kind that ``target`` wants.

    Args:
        target: a class or a function; a parameter without an annotation takes anything.
        values: by parameter; one that it does not have is passed through, for the call to refuse.
        name: where the values stand, as ``sampler``.
        nested: makes of a mapping with ``_target_`` what it stands for.

    Raises:
        SettingsError: a value of another kind; the setting and what it takes are named.
    """
    wanted = hints(target)
    full = {key: f"{name}.{key}" if name else key for key in values}
    return {key: fitted(wanted.get(key, Any), value, full[key], nested) for key, value in values.items()}


def fitted(hint: Any, value: Any, name: str, nested: Nested | None = None) -> Any:
    """One value, of the kind that an annotation wants. Raises SettingsError: it is of another kind."""
    try:
        return _fit(hint, value, name, nested)
    except _UnfitError:
        wanted = spelled(hint)
        if "." not in name:  # from Python, where a part is made and not described
            wanted = wanted.replace(DESCRIBED, "")
        words = [w for kind in kinds_of(hint) if get_origin(kind) is Literal for w in get_args(kind) if type(w) is str]
        near = meant(value, words) if isinstance(value, str) else ""
        raise SettingsError(f"{name} must be {wanted}, got {_short(value)}{near}") from None


@lru_cache(maxsize=1024)
def hints(target: Any) -> dict[str, Any]:
    """The annotation of every parameter. What a preset takes beside its own (``**options``) is the dataclass
    ``Options`` of its package. Empty where they cannot be read."""
    plain_class = isinstance(target, type) and not is_dataclass(target)
    try:
        found = get_type_hints(vars(target).get("__init__", target) if plain_class else target)
        kinds = [parameter.kind for parameter in inspect.signature(target).parameters.values()]
    except (NameError, TypeError, ValueError, AttributeError):
        return {}
    package = str(getattr(target, "__module__", "")).partition(".")[0]
    shared = getattr(sys.modules.get(package), "Options", None)
    if inspect.Parameter.VAR_KEYWORD in kinds and is_dataclass(shared):
        found = {**get_type_hints(shared), **found}
    return {key: hint for key, hint in found.items() if key != "options"}


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; else the annotation itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def spelled(hint: Any) -> str:
    """An annotation in words: ``a whole number or null``."""
    words: list[str] = []
    for kind in kinds_of(hint):
        if get_origin(kind) is Literal:
            words += map(repr, get_args(kind))
        elif get_origin(kind) in _LISTS:
            inner = next(iter(get_args(kind)), Any)
            words.append("a list" if inner is Any else f"a list, each of it {spelled(inner)}")
        elif get_origin(kind) in (dict, collections.abc.Mapping):
            words.append("a mapping")
        else:
            plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
            named = f"a {getattr(kind, '__name__', kind)}{DESCRIBED}"
            words.append(plain.get(kind) or ("a path" if kind is Path else named))
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def _fit(hint: Any, value: Any, name: str, nested: Nested | None) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    kinds = kinds_of(hint)
    if nested is not None and isinstance(value, Mapping) and "_target_" in value:
        return nested(hint, value, name)
    if len(kinds) > 1:
        for kind in sorted(kinds, key=lambda kind: kind is not type(value)):  # stable: what it is already comes first
            try:
                return _fit(kind, value, name, nested)
            except _UnfitError:
                continue
        raise _UnfitError
    if origin is Literal:
        return _only(any(value == word and type(value) is type(word) for word in inner), value)
    if origin in _LISTS:
        _only(isinstance(value, Sequence) and not isinstance(value, str | bytes), value)
        each = inner[:1] * len(value) if origin is not tuple or inner[1:] in ((), (...,)) else inner
        _only(not inner or len(each) == len(value), value)
        pairs = zip(each or (Any,) * len(value), value, strict=True)
        made = [_fit(kind, entry, f"{name}[{i}]", nested) for i, (kind, entry) in enumerate(pairs)]
        return tuple(made) if isinstance(value, tuple) else made
    if origin in (dict, collections.abc.Mapping) and inner:
        _only(isinstance(value, Mapping), value)
        return {_fit(inner[0], k, name, nested): _fit(inner[1], v, f"{name}[{k!r}]", nested) for k, v in value.items()}
    if origin is not None or not isinstance(hint, type) or hint in (Any, object) or hint.__module__[:9] == "jaxtyping":
        return value  # mappings, callables, tensors: for the part to look at
    return _plain(hint, value)


def _plain(kind: type, value: Any) -> Any:
    """A value of one class; numbers are turned into the kind of number that is wanted."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind is int:
        if isinstance(value, Integral):
            return int(_only(number, value))
        return int(_only(number and math.isfinite(value) and value == int(value), value))
    if kind is float:
        try:
            return float(_only(number, value)) + 0.0  # -0.0 is 0
        except OverflowError:
            raise _UnfitError from None
    if kind is Path:
        return _only(isinstance(value, str | Path), value)
    return _only(isinstance(value, kind), value)


def _only(fits: bool, value: Any) -> Any:
    if not fits:
        raise _UnfitError
    return value


def _short(value: Any) -> str:
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, type | FunctionType):
        return f"{value.__name__} itself: write {value.__name__}()"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
