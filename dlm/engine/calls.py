"""Calls from Python held against names and annotations: a sentence says what is wrong and what is right.

Parts, policies and the like get it by their class (:class:`Checked`), functions by :func:`checked_call`; what a value
must be, :mod:`dlm.engine.settings` says.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, Unpack, get_args, get_origin, get_type_hints

from dlm.engine.settings import fitted
from dlm.errors import SettingsError
from dlm.words import meant

P = ParamSpec("P")
R = TypeVar("R")


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


def checked_call(function: Callable[P, R]) -> Callable[P, R]:
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
    shared = get_type_hints(get_args(hints[rest[0].name])[0]) if rest and _unpacked(hints, rest[0].name) else {}
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
            bound.arguments[name] = {n: _held(shared.get(n, Any), v, n) for n, v in value.items()}
        elif parameter.kind is not parameter.VAR_POSITIONAL and value is not parameter.default:
            bound.arguments[name] = _held(hints.get(name, Any), value, name)
    return bound


def _held(hint: Any, value: Any, name: str) -> Any:
    """The value, lists as tuples, which nobody changes later. A mapping stays the object it is: it may be shared."""
    found = fitted(hint, value, name)
    return value if isinstance(value, Mapping) else _frozen(found)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if type(value) in (list, tuple) else value


def unknown(label: str, name: str, known: Sequence[str]) -> str:
    """That there is no such setting, the nearest one, and all there are."""
    return f"{label} has no setting {name}{meant(name, known)}; it knows {', '.join(known) or 'none'}"


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
