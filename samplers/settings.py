"""What the settings of several parts have in common: refusals that name the setting and what it may be, and texts that
become token ids.

All of them raise SettingsError. None stands for a default and passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlm.errors import SettingsError

MOST = 2**31 - 1


def at_least(least: int, **settings: int | None) -> None:
    """Refuse a number below ``least``, and one too large to count positions with."""
    for name, value in settings.items():
        if value is not None and not least <= value <= MOST:
            bound = f"at least {least}" if value < least else f"at most {MOST}"
            raise SettingsError(f"{name} must be {bound}, got {value}")


def within(interval: str, **settings: float | None) -> None:
    """Refuse a number, NaN too, outside an interval, such as ``(0, 1]``: a round bracket leaves its end out."""
    low, high = map(float, interval[1:-1].split(","))
    for name, value in settings.items():
        inside = value is None or low < value < high
        if not (inside or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")):
            raise SettingsError(f"{name} must be in {interval}, got {value}")


def token_ids(tokenizer: Any, texts: Sequence[str | int], vocab_size: int, what: str) -> tuple[int, ...]:
    """The id of each text, which must be one token; ids are passed through.

    Raises:
        SettingsError: a text of several tokens, an id outside the vocabulary, text without a tokenizer.
    """
    found = []
    for text in texts:
        if isinstance(text, int):
            ids = [text]
            if not 0 <= text < vocab_size:
                raise SettingsError(f"{what} {text} is no token id of this model; it has {vocab_size}")
        else:
            ids = encode(tokenizer, text, what)
        if len(ids) != 1:
            raise SettingsError(
                f"{what} {text!r} is {len(ids)} tokens of this model's tokenizer ({ids}): give texts of a single token,"
                " or token ids"
            )
        found += ids
    return tuple(found)


def encode(tokenizer: Any, text: str, what: str) -> list[int]:
    """The ids of a text without special tokens.

    Raises:
        SettingsError: no tokenizer, or an empty text.
    """
    if tokenizer is None:
        raise SettingsError(f"{what} {text!r} needs a tokenizer and this model has none: give token ids")
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise SettingsError(f"{what} {text!r} is empty")
    return ids
