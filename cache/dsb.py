"""The cache of sliding windows (DSB, arXiv 2602.05992; DCD, 2601.02076): the window, and what it has just left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.settings import at_least
from dlm.engine.canvas import Canvas
from dlm.engine.row import Row
from dlm.engine.step import StepView


class Slide(NamedTuple):
    """Where the window stood, and what was done since everything was recomputed.

    Attributes:
        start: of the window in the last forward. ``[B]``
        committed: tokens since. ``[B]``
    """

    start: Int[Tensor, " B"]
    committed: Int[Tensor, " B"]


@dataclass(frozen=True)
class DSB(Policy):
    """DSB cache, for ``blocks=sliding``: a step feeds the window and at least ``before`` positions before it, more
    where the window has moved on by more at the step before. ``trailing``: instead, ``before`` positions before where
    the window stood at the step before, as far as they are generated (Deferred Commitment Decoding; details of its
    code).

    Attributes:
        before: positions before the window (published: 24 for LLaDA, 4 for Dream).
        after: positions behind it (0); None: all (DCD's prefix cache).
        trailing: whether ``before`` is counted as DCD does.
        every_tokens: committed tokens after which everything is recomputed (published: the length of the window).

    Raises:
        SettingsError: a negative width, ``every_tokens`` below 1.
    """

    before: int = 24
    after: int | None = 0
    every_tokens: int = 32
    trailing: bool = False

    def __post_init__(self) -> None:
        at_least(0, before=self.before, after=self.after)
        at_least(1, every_tokens=self.every_tokens)

    def init(self, canvas: Canvas) -> Slide:
        return Slide(torch.zeros_like(canvas.start), torch.zeros_like(canvas.start))

    def refreshes(self, row: Row) -> bool:
        return bool(row.cache.get("refresh", True))

    def active(self, context: PolicyContext, state: Slide) -> Bool[Tensor, "B W"]:
        last, canvas = state.start[:, None], context.query.canvas
        if self.trailing:
            start = torch.maximum(last - self.before, canvas.start[:, None])
        else:
            start = torch.minimum(context.block_start - self.before, last)
        end = canvas.end[:, None] if self.after is None else self._end(context) + self.after
        return context.live & context.span(start, end)

    def _end(self, context: PolicyContext) -> Int[Tensor, "B 1"]:
        """The end of the window."""
        return context.block_end

    def remember(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Slide
    ) -> tuple[Slide, dict[str, Int[Tensor, " B"]]]:
        committed = state.committed + chosen.sum(dim=1)
        due = committed >= self.every_tokens
        return Slide(view.blocks.block_start, committed.masked_fill(due, 0)), {"refresh": due.long()}
