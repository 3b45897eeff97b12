"""Tokens as text, so that a trace can be read without its tokenizer; and canvases as lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from dlm.models.language_model import LanguageModel

MASKED = "░"
FILLER = "·"  # end tokens, and tokens without a visible form


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


def fold(line: Text, width: int) -> list[Text]:
    """A line cut every ``width`` cells, never at words: a position keeps its place while others fill."""
    cuts, used = [], 0
    for i, character in enumerate(line.plain):
        cells = Text(character).cell_len
        if used + cells > width and used:
            cuts.append(i)
            used = 0
        used += cells
    return list(line.divide(cuts)) if cuts else [line]
