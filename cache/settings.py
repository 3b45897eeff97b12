"""What the settings of several caches have in common."""

from __future__ import annotations

from dlm.errors import SettingsError

MOST = 2**31 - 1


def at_least(least: int, **settings: int | None) -> None:
    """Refuse a setting that is smaller, or too large to count positions with; None stands for "never" or "all" and
    passes. What is wider than a row is all of it.

    Raises:
        SettingsError: names the setting and what to write.
    """
    for name, value in settings.items():
        if value is not None and not least <= value <= MOST:
            bound = f"a whole number of at least {least}" if value < least else f"at most {MOST}"
            raise SettingsError(f"{name} must be {bound}, got {value}")


def share(**settings: float) -> None:
    """Refuse a share outside (0, 1].

    Raises:
        SettingsError: names the setting.
    """
    for name, value in settings.items():
        if not 0.0 < value <= 1.0:
            raise SettingsError(f"{name} is a share and must be above 0 and at most 1, got {value}")


def every_steps(step: int, interval: int | None) -> bool:
    """Whether a clock that counts from 0 strikes; None never does."""
    return interval is not None and step % interval == 0
