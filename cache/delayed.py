"""The cache of d3LLM: what precedes the first unfinished block, a few forwards after it was filled."""

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


class Waiting(NamedTuple):
    """What is kept, and how long the block behind it has been waiting to be.

    Attributes:
        kept: the end of what is kept, an absolute position; 0: not even the prompt. ``[B]``
        waited: forwards since that block was first seen full, one less for the prompt; -1: it is not full. ``[B]``
    """

    kept: Int[Tensor, " B"]
    waited: Int[Tensor, " B"]


@dataclass(frozen=True)
class DelayedPrefix(Policy):
    """The prompt, then block after block, is kept ``delay`` forwards after it was full; until then everything is
    recomputed. Otherwise a step feeds what is not kept (the delayed cache of d3LLM, arXiv 2601.07568, from its code for
    LLaDA).

    Attributes:
        delay: forwards for which a full block is still recomputed, and all of the row with it (published: 1 or 2).
        length: of a block: what the sampler's blocks have.
        every: forwards of a row after which everything is recomputed besides; None: not for their sake.

    Raises:
        SettingsError: a number below 1.
    """

    delay: int = 2
    length: int = 32
    every: int | None = None

    def __post_init__(self) -> None:
        at_least(1, delay=self.delay, length=self.length, every=self.every)

    def init(self, canvas: Canvas) -> Waiting:
        return Waiting(torch.zeros_like(canvas.start), torch.zeros_like(canvas.start))

    def refreshes(self, row: Row) -> bool:
        return bool(row.cache.get("refresh", True))

    def active(self, context: PolicyContext, state: Waiting) -> Bool[Tensor, "B W"]:
        return context.live & (context.columns >= state.kept[:, None])

    def remember(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Waiting
    ) -> tuple[Waiting, dict[str, Int[Tensor, " B"]]]:
        waited = state.waited + (state.kept == 0)
        store = waited >= self.delay
        kept = torch.where(store, self._end(view.canvas, state.kept), state.kept)
        before, now = self._full(view.canvas, kept, view.marks(chosen)), self._full(view.canvas, kept)
        since = torch.where(store, before.long(), torch.where(waited >= 0, waited + 1, 0))
        waited = torch.where(now, since, -1)
        due = (waited >= 0) & (waited < self.delay)
        if self.every is not None:
            due = due | (((view.blocks.step + 2) % self.every == 0) & (waited < self.delay))
        return Waiting(kept, waited - (kept == 0).long()), {"refresh": due.long()}

    def _end(self, canvas: Canvas, kept: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The end of the block behind what is kept."""
        return torch.where(kept == 0, canvas.start, torch.minimum(kept + self.length, canvas.end))

    def _full(
        self, canvas: Canvas, kept: Int[Tensor, " B"], open_: Bool[Tensor, "B W"] | None = None
    ) -> Bool[Tensor, " B"]:
        """Whether nothing is masked in the block behind what is kept; ``open_``: what was masked besides."""
        masked = canvas.masked if open_ is None else canvas.masked | open_
        end = self._end(canvas, kept)
        return (end > kept) & ~(masked & canvas.inside(kept, end)).any(dim=1)
