"""What the settings of several parts have in common: each refusal names the setting and what it may be.

All of them raise SettingsError. None stands for a default and passes.
"""

from __future__ import annotations

from dlm.errors import SettingsError


def at_least(least: int, **settings: int | None) -> None:
    """Refuse a number below ``least``."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise SettingsError(f"{name} must be at least {least}, got {value}")


def within(interval: str, **settings: float | None) -> None:
    """Refuse a number, NaN too, outside an interval, such as ``(0, 1]``: a round bracket leaves its end out."""
    low, high = map(float, interval[1:-1].split(","))
    for name, value in settings.items():
        inside = value is None or low < value < high
        if not (inside or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")):
            raise SettingsError(f"{name} must be in {interval}, got {value}")


def one_of(*words: str, **settings: str) -> None:
    """Refuse a word that is none of ``words``."""
    *first, last = map(repr, words)
    for name, value in settings.items():
        if value not in words:
            raise SettingsError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")
