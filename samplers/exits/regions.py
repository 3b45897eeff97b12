"""Where the answer stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.errors import SettingsError
from samplers.texts import encode


@dataclass(frozen=True)
class AnswerRegion:
    """The positions whose certainty decides over an early exit.

    Give one of: ``start`` (offset in the generated region), ``after`` (a text, or token ids: the region begins behind
    its last occurrence on the canvas that has generated positions behind it; a row without one has no region), or
    neither: the whole generated span. ``length`` positions, clipped at the end of the row; None: up to the end.

    Raises:
        SettingsError: both start and after, a negative start, a length below 1, a start outside the canvas.
    """

    start: int | None = None
    after: str | Sequence[int] | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.after, int | float):
            raise SettingsError(
                f"the answer's suffix is a text or a list of token ids, got the number {self.after}: write"
                f" '\"{self.after}\"' for the text, [{self.after}] for the id"
            )
        if self.after is not None and not isinstance(self.after, str):
            object.__setattr__(self, "after", tuple(self.after))
            if not self.after:
                raise SettingsError("after= is empty: give a text or token ids")
        if self.start is not None and self.after is not None:
            raise SettingsError("an answer region begins at start= or behind after=: give one of them")
        if self.start is not None and self.start < 0:
            raise SettingsError(f"the answer region's start must be 0 or more, got {self.start}")
        if self.length is not None and self.length < 1:
            raise SettingsError(f"the answer region's length must be at least 1, got {self.length}")

    def bind(self, tokenizer: Any) -> AnswerRegion:
        """The region with ids in place of a text."""
        if not isinstance(self.after, str):
            return self
        return replace(self, after=tuple(encode(tokenizer, self.after, "answer suffix")))

    def check(self, region: int) -> None:
        """Refuse a start outside a generated region of so many positions."""
        if self.start is not None and self.start >= region:
            raise SettingsError(
                f"the answer region begins at generated position {self.start}, but only {region} positions are"
                " generated: lower its start or raise max_new_tokens"
            )

    def most(self, eligible: int, region: int) -> int:
        """The most positions it can have together with ``eligible`` others of a generated region of ``region``."""
        return region if self.length is None else min(eligible + self.length, region)

    def where(self, canvas: Canvas) -> Bool[Tensor, "B W"]:
        """Its positions in every row."""
        first = canvas.start + (self.start or 0)
        if self.after is not None:
            first = self._behind(canvas)
        last = canvas.end if self.length is None else torch.minimum(first + self.length, canvas.end)
        return canvas.inside(first, last)

    def _behind(self, canvas: Canvas) -> Tensor:
        """First position behind the last occurrence of the suffix; the end of the row where it does not occur."""
        if isinstance(self.after, str):
            raise SettingsError(f"answer suffix {self.after!r} needs a tokenizer: give token ids")
        assert self.after is not None
        size, tokens = len(self.after), canvas.tokens
        found = torch.ones_like(canvas.writable)
        for back, token in enumerate(reversed(self.after), start=1):
            found &= tokens.roll(back, dims=1) == token
        # A window that would reach over the left edge is none.
        place = canvas.columns
        found &= (place >= size) & canvas.inside(canvas.start, canvas.end)
        behind = place.expand_as(tokens).masked_fill(~found, -1).amax(dim=1)
        return torch.where(behind >= 0, behind, canvas.end)
