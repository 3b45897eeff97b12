"""Settings given as text, turned into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlm.errors import SettingsError


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
