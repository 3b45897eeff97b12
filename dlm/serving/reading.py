"""A canvas that fills in any order, as text that grows from left to right."""

from __future__ import annotations

from collections.abc import Sequence

from dlm.engine.stops import Stops, first_end
from dlm.models.language_model import LanguageModel


class Reading:
    """What of an answer can be told for good: from its beginning to the first open position, end token or stop string.

    Args:
        model: whose tokens they are.
        stops: what ends the answer; neither it nor what follows is told.
        keeps: whether committed tokens stay; else nothing is told before the end.
        last: the whole row is told (an infill), end tokens or not.

    Attributes:
        text: all that was told.
        ended: an end token, or a stop string, came before the end of the region.
        length: tokens that make up the text.
    """

    def __init__(self, model: LanguageModel, stops: Stops | None, keeps: bool = True, last: bool = False) -> None:
        self.model, self.stops, self.keeps, self.last = model, stops, keeps, last
        self.text, self.ended, self.length = "", False, 0

    def take(self, tokens: Sequence[int], final: bool = False) -> str:
        """What there is to tell beyond what was told; ``final``: nothing will change any more."""
        if not (self.keeps or final):
            return ""
        about, stops = self.model.description, self.stops
        known = list(tokens if final else tokens[: first_end(tokens, (about.mask_id,))])
        settled = final or (stops is not None and stops.reached(known))
        if stops is not None and settled:
            text, self.length = stops.text(known), stops.kept(known)
        else:
            ends = (*about.eos_ids, *(() if stops is None else stops.special))
            self.length = len(known) if self.last else first_end(known, ends)
            text = self.model.decode(known[: self.length])
            if not (settled or self.length < len(known)):
                text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # bytes that are still to be completed
                text = text[: self._certain(text)]
        self.ended = self.length < len(known)
        new, self.text = text[len(self.text) :], max(self.text, text, key=len)
        return new

    def _certain(self, text: str) -> int:
        """Where a stop string stands or has begun, else the end."""
        strings = () if self.stops is None else self.stops.strings
        longest = max(map(len, strings), default=0)
        begun = (at for at in range(max(0, len(text) - longest), len(text)) for s in strings if s.startswith(text[at:]))
        found = (at for s in strings if (at := text.find(s)) >= 0)
        return min((*begun, *found), default=len(text))
