"""A canvas that fills in any order, as text that grows from left to right."""

from __future__ import annotations

from collections.abc import Sequence

from dlm.engine.result import first_end
from dlm.models.language_model import LanguageModel


class Reading:
    """What of an answer can be told for good: from its beginning to the first open position, end token or stop string.

    Args:
        model: whose tokens they are.
        stops: texts that end the answer; neither they nor what follows is told.
        keeps: whether committed tokens stay; else nothing is told before the end.
        last: the whole row is told (an infill), end tokens or not.

    Attributes:
        text: all that was told.
        stopped: a stop string was found.
        ended: an end token, or a stop string, came before the end of the region.
        length: tokens that make up the text.
    """

    def __init__(self, model: LanguageModel, stops: Sequence[str] = (), keeps: bool = True, last: bool = False) -> None:
        self.model, self.stops, self.keeps, self.last = model, tuple(stops), keeps, last
        self.text, self.stopped, self.ended, self.length = "", False, False, 0

    def take(self, tokens: Sequence[int], final: bool = False) -> str:
        """What there is to tell beyond what was told; ``final``: nothing will change any more."""
        if self.stopped or not (self.keeps or final):
            return ""
        about = self.model.description
        known = tokens if final else tokens[: first_end(list(tokens), (about.mask_id,))]
        useful = len(known) if self.last else first_end(list(known), about.eos_ids)
        self.ended, self.length = useful < len(known), useful
        text = self.model.decode(known[:useful])
        certain = final or self.ended
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            text, certain, self.stopped, self.ended = text[: min(found)], True, True, True
            self.length = self._tokens_of(known[:useful], len(text))
        elif not certain:
            text = text[: len(text) - self._unsure(text)]
        new, self.text = text[len(self.text) :], max(self.text, text, key=len)
        return new

    def _unsure(self, text: str) -> int:
        """Characters at the end that may yet become others: half a character, or the beginning of a stop string."""
        cut = len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        whole = text[: len(text) - cut]
        begun = (
            n for stop in self.stops for n in range(min(len(stop) - 1, len(whole)), 0, -1) if whole.endswith(stop[:n])
        )
        return cut + max(begun, default=0)

    def _tokens_of(self, tokens: Sequence[int], characters: int) -> int:
        """How many of the tokens it takes for so many characters."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if len(self.model.decode(tokens[:middle])) < characters else (low, middle)
        return low
