"""Samplers, caches and drafters however a caller says them: made, by name, or as the class or preset uncalled."""

from __future__ import annotations

from importlib import import_module
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

from dlm.engine.interfaces import Cache, Part, Speculator
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.words import unknown_name

T = TypeVar("T")


class _Role(NamedTuple):
    kind: type
    package: str  # where a name is looked up, when one is given: the core itself knows neither samplers nor caches
    names: str  # what lists the names there
    example: str


_ROLES = {
    "sampler": _Role(Sampler, "samplers", "PRESETS", "samplers.threshold(0.9), or a preset's name such as 'threshold'"),
    "cache": _Role(Cache, "cache", "PRESETS", "cache.dual(), a name such as 'dual', or None"),
    "drafter": _Role(Speculator, "dlm.drafting", "PRESETS", "dlm.drafting.FreeDave(), 'freedave', or None"),
}
_KINDS = {Sampler: "a sampler", Cache: "a cache", Speculator: "a drafter", Part: "one part of a sampler"}


def sampler_of(given: Any) -> Sampler:
    """A sampler; a preset by its name or uncalled, with its defaults. Raises SettingsError: it is none."""
    found: Sampler = _made("sampler", given)
    return found


def cache_of(given: Any) -> Cache | None:
    """A cache, None, or one by its name or uncalled, with its defaults. Raises SettingsError: it is none."""
    return None if given is None else _made("cache", given)


def drafter_of(given: Any) -> Any:
    """A drafter, None, or one by its name or class, with its defaults. Raises SettingsError: it is none."""
    return None if given is None or given == "none" else _made("drafter", given)


def _made(role: str, given: Any) -> Any:
    kind, package, names, example = _ROLES[role]
    made = given
    if isinstance(given, str):
        module = import_module(package)
        known = getattr(module, names, ())
        if given not in known:
            raise SettingsError(unknown_name(role, given, known))
        made = getattr(module, given)
    if isinstance(made, FunctionType) or (isinstance(made, type) and issubclass(made, kind)):
        try:
            made = made()
        except TypeError as error:
            raise SettingsError(f"{role}={given.__name__} cannot be called without settings: {error}") from error
    if isinstance(made, kind):
        return made
    what = made if isinstance(made, type) else type(made)
    other = next((f" ({says})" for other, says in _KINDS.items() if issubclass(what, other)), "")
    raise SettingsError(f"{role}: {what.__name__}{other} is no {role}: pass {example}")
