"""Tokens as text, so that a trace can be read without its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlm.models.language_model import LanguageModel


def pieces_of(model: LanguageModel, tokens: Iterable[int]) -> dict[int, str]:
    """Token id -> its text; special tokens by their names. Empty when the model has no tokenizer.

    A token that is a part of a character only (byte-level vocabularies) becomes the replacement character.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        return {}
    special = set(tokenizer.all_special_ids) | {model.description.mask_id, *model.description.eos_ids}
    pieces = {}
    for token in sorted(set(tokens)):
        text = "" if token in special else model.decode([token])
        # An id the tokenizer does not know has no name either.
        pieces[token] = text or str(tokenizer.convert_ids_to_tokens(token) or f"<{token}>")
    return pieces
