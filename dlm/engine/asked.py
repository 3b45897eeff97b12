"""Settings held against the names and annotations of what takes them; a sentence says what is wrong and what is right.

Parts, policies and the like get it by their class (:class:`Checked`), functions by :func:`checked`. Only plain kinds
are looked at: numbers, texts, words, lists of them, and classes of settings. Any other annotation takes anything.
"""

from __future__ import annotations

import difflib
import inspect
import reprlib
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, wraps
from numbers import Real
from pathlib import Path
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from dlm.errors import SettingsError

P = ParamSpec("P")
R = TypeVar("R")

_UNFIT = object()
_PLAIN: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
    NoneType: ("None", "None"),
}


class Checked(ABCMeta):
    """Class of classes whose objects are settings: names and kinds are checked before an object is made.

    8.0 is 8 where a whole number is wanted, a list becomes a tuple; True is no number.
    """

    def __call__(cls, *given: Any, **settings: Any) -> Any:
        hints = hints_of(cls if is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
        bound = arguments(cls.__signature__, hints, cls.__name__, given, settings)
        return super().__call__(*bound.args, **bound.kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        return _signature(cls)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose unknown, surplus and missing arguments are a SettingsError."""

    @wraps(function)
    def called(*given: P.args, **settings: P.kwargs) -> R:
        bound = arguments(inspect.signature(function), {}, f"{function.__name__}()", given, settings)
        return function(*bound.args, **bound.kwargs)

    return called


def arguments(
    signature: inspect.Signature,
    hints: Mapping[str, Any],
    label: str,
    given: Sequence[Any],
    settings: Mapping[str, Any],
) -> inspect.BoundArguments:
    """What a call hands over, each value as its annotation in ``hints`` wants it; a default is right as it is.

    Raises:
        SettingsError: an unknown name (``label`` says whose; its own names are listed, the nearest is asked for), a
            missing or surplus argument, a value of the wrong kind.
    """
    rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    known = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    shared = hints_of(get_args(hints[rest[0].name])[0]) if rest and _unpacked(hints, rest[0].name) else {}
    known += shared
    if strange := [name for name in settings if name not in known and (shared or not rest)]:
        raise SettingsError(unknown(label, strange[0], known))
    try:
        bound = signature.bind(*given, **settings)
    except TypeError as error:
        raise SettingsError(f"{label}: {error}; it takes {', '.join(known) or 'nothing'}") from None
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.arguments[name] = {n: fitted(n, v, shared.get(n, Any)) for n, v in value.items()}
        elif parameter.kind is not parameter.VAR_POSITIONAL and value is not parameter.default:
            bound.arguments[name] = fitted(name, value, hints.get(name, Any))
    return bound


def unknown(label: str, name: str, known: Sequence[str]) -> str:
    """That there is no such setting, the nearest one, and all there are."""
    near = difflib.get_close_matches(name, known, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"{label} has no setting {name}{meant}; it knows {', '.join(known) or 'none'}"


def fitted(name: str, value: Any, kind: Any) -> Any:
    """``value`` as the annotation ``kind`` wants it. Raises SettingsError: it is of another kind."""
    found = _as(value, kind)
    if found is _UNFIT:
        words, hint = _words(kind), ""
        if isinstance(value, list | tuple) and not any(word.startswith("a list") for word in words):
            hint = ": give one"
        elif isinstance(value, int | float) and "a text" in words:
            hint = f": on a command line the text is written '\"{value}\"'"
        raise SettingsError(f"{name} must be {_either(words)}, got {_shown(value)}{hint}")
    return found


def _as(value: Any, kind: Any) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return next((found for one in inside if (found := _as(value, one)) is not _UNFIT), _UNFIT)
    if origin is Literal:
        return value if any(value == word and type(value) is type(word) for word in inside) else _UNFIT
    if _listed(kind):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return _UNFIT
        entries = tuple(_as(entry, inside[0]) for entry in value)
        return _UNFIT if any(entry is _UNFIT for entry in entries) else entries
    if kind in (int, float):
        return _number(value, kind)
    if kind in _PLAIN or isinstance(kind, Checked) or (isinstance(kind, type) and is_dataclass(kind)):
        return value if isinstance(value, kind) else _UNFIT
    return value


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        return _UNFIT
    if isinstance(value, int | float) and isinstance(value, kind | int):
        return value
    if kind is float:
        return float(value)
    return int(float(value)) if float(value).is_integer() else _UNFIT


def _listed(kind: Any) -> bool:
    """``Sequence[X]``, ``list[X]``, ``tuple[X, ...]``."""
    origin, inside = get_origin(kind), get_args(kind)
    return origin in (Sequence, list) or (origin is tuple and inside[1:] == (...,))


def _words(kind: Any, several: bool = False) -> list[str]:
    """What an annotation takes, in words."""
    if get_origin(kind) in (Union, UnionType):
        return [word for one in get_args(kind) for word in _words(one, several)]
    if get_origin(kind) is Literal:
        return [repr(word) for word in get_args(kind)]
    if _listed(kind):
        return [f"{'lists' if several else 'a list'} of {_either(_words(get_args(kind)[0], True))}"]
    if kind is bool:
        return ["true", "false"]
    if kind in _PLAIN:
        return [_PLAIN[kind][several]]
    name = getattr(kind, "__name__", str(kind))
    return [f"{name}s" if several else f"a {name} ({kind.__module__})"]


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _shown(value: Any) -> str:
    if isinstance(value, type | FunctionType):
        return f"{value.__name__} itself: write {value.__name__}()"
    return reprlib.repr(value)


def _unpacked(hints: Mapping[str, Any], name: str) -> bool:
    return get_origin(hints.get(name)) is Unpack


@cache
def _signature(cls: type) -> inspect.Signature:
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return inspect.Signature()
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    return signature.replace(parameters=list(signature.parameters.values())[1:])


@cache
def hints_of(of: Any) -> dict[str, Any]:
    """The annotations of a class or function as types, read once; none where one of them cannot be read (a stranger's,
    imported for types alone)."""
    try:
        return get_type_hints(of)
    except (NameError, TypeError, AttributeError):
        return {}
