"""Text that stays text: a control token that somebody wrote into a message is spelled out, the template's own are not.

A tokenizer cuts a text at its control tokens before it does anything else. The same is done here by hand, except that
what is marked as written is no place to cut: everything between two cuts is encoded together, as it always was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dlm.errors import PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Marks(NamedTuple):
    """Two characters that no text at hand contains; they stand around what is written."""

    start: str
    end: str

    @classmethod
    def absent_from(cls, *texts: str) -> Marks:
        """The first two characters of Unicode's private area that none of the texts holds."""
        used = set().union(*texts)
        free = (c for c in map(chr, range(0xE000, 0xF900)) if c not in used)
        return cls(next(free), next(free))


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The tokens that steer a model, by their text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token.content: token for token in added.values() if token.special and token.content}


def holds_any(value: Any, tokens: Sequence[str]) -> bool:
    """Whether a text, or a text anywhere within a message, holds one of the tokens."""
    return any(token in text for text in _texts(value) for token in tokens)


def check_unicode(value: Any) -> None:
    """Raise PromptError for half a character (a surrogate) in a text, or in a text anywhere within messages."""
    for text in _texts(value):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"the text is not valid Unicode at character {error.start}: give it in UTF-8") from error


def marks_for(*values: Any) -> Marks:
    """Marks for what is within these values."""
    return Marks.absent_from(*(text for value in values for text in _texts(value)))


def marked(value: Any, tokens: Sequence[str], marks: Marks) -> Any:
    """The same with marks around every one of the tokens."""
    if isinstance(value, str):
        return _any_of(tokens).sub(lambda found: f"{marks.start}{found[0]}{marks.end}", value)
    if isinstance(value, Mapping):
        return {key: marked(entry, tokens, marks) for key, entry in value.items()}
    return [marked(entry, tokens, marks) for entry in value] if isinstance(value, list | tuple) else value


def encode_marked(tokenizer: PreTrainedTokenizerFast, text: str, marks: Marks) -> list[int]:
    """Token ids of a text in which control tokens between marks are text, and all others control tokens."""
    tokens = control_tokens(tokenizer)
    ids: list[int] = []
    open_, strip = "", False  # text that is not encoded yet; whether the token before it swallows spaces

    def close(swallowed: bool) -> None:
        piece = open_.lstrip() if strip else open_
        piece = piece.rstrip() if swallowed else piece
        ids.extend(tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"] if piece else [])

    for number, part in enumerate(re.split(f"{marks.start}(.*?){marks.end}", text, flags=re.DOTALL)):
        if number % 2:
            open_ += part
            continue
        for place, piece in enumerate(re.split(f"({_any_of(tokens).pattern})", part)):
            if place % 2 == 0:
                open_ += piece.replace(marks.start, "").replace(marks.end, "")
                continue
            close(tokens[piece].lstrip)
            ids.append(tokenizer.get_vocab()[piece])
            open_, strip = "", tokens[piece].rstrip
    close(False)
    return ids


def _any_of(tokens: Sequence[str] | Mapping[str, Any]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for entry in entries for text in _texts(entry)]
