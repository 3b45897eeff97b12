"""Stop strings: an answer ends before the first of them, and so does its decoding."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dlm.errors import SettingsError


@dataclass(frozen=True)
class Stops:
    """Where the text of a row ends.

    Attributes:
        strings: texts that are no part of the answer, nor is what follows them.
        end_ids: the ids that end an answer in any case.
        special: stop strings that are special tokens, which texts leave out, as ids.
        decode: ids to text.
    """

    strings: tuple[str, ...]
    end_ids: tuple[int, ...]
    special: tuple[int, ...]
    decode: Callable[[Sequence[int]], str]

    @classmethod
    def of(cls, model: Any, stop: str | Sequence[str] | None) -> Stops | None:
        """For a :class:`dlm.models.LanguageModel`; None: there is nothing to stop at. Raises SettingsError: no text, an
        empty one, or a model without a tokenizer."""
        strings = tuple(stop or ()) if isinstance(stop, list | tuple | None) else (stop,)
        if not all(isinstance(text, str) and text for text in strings):
            raise SettingsError(f"stop is a text, or a list of texts none of which is empty, got {stop!r}")
        if not strings:
            return None
        if model.tokenizer is None:
            raise SettingsError(f"{model.name} has no tokenizer, and stop= is text: leave it out, or use one that has")
        added = model.tokenizer.added_tokens_encoder
        ids = tuple(added[text] for text in strings if text in added)
        return cls(strings, tuple(model.description.eos_ids), ids, model.decode)

    def text(self, tokens: Sequence[int]) -> str:
        """The answer: what stands before the first end token and the first stop string."""
        text = self.decode(tokens[: self._end(tokens)])
        place = self._first(text)
        return text if place is None else text[:place]

    def kept(self, tokens: Sequence[int]) -> int:
        """How many tokens the answer takes."""
        end, text = self._end(tokens), self.text(tokens)
        if text == self.decode(tokens[:end]):
            return end
        return bisect_left(range(end), True, key=lambda n: self.decode(tokens[:n]).startswith(text))

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether the answer is settled by a stop string in these first tokens, whatever comes behind them."""
        end = self._end(tokens)
        if tokens[end : end + 1] and tokens[end] in self.special:
            return True
        text = self.decode(tokens[:end]).rstrip("\N{REPLACEMENT CHARACTER}")  # bytes that are still to be completed
        place = self._first(text)
        if place is None:
            return False
        # Another one that has begun before it may be completed yet.
        first = max(0, len(text) - max(map(len, self.strings)) + 1)
        return not any(stop.startswith(text[at:]) for at in range(first, place) for stop in self.strings)

    def _end(self, tokens: Sequence[int]) -> int:
        return first_end(tokens, (*self.end_ids, *self.special))

    def _first(self, text: str) -> int | None:
        return min((place for stop in self.strings if (place := text.find(stop)) >= 0), default=None)


def first_end(tokens: Sequence[int], end_ids: Sequence[int]) -> int:
    """Number of tokens before the first end token."""
    return next((i for i, token in enumerate(tokens) if token in end_ids), len(tokens))
