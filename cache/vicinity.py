"""Vicinity refresh (dInfer, arXiv 2510.08666)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.settings import at_least, every_steps
from dlm.engine.row import Row
from dlm.engine.step import State


@dataclass(frozen=True)
class Vicinity(Policy):
    """The dual cache with a window: the block and its neighbourhood are recomputed at every step.

    Attributes:
        before, after: positions of the neighbourhood on either side; None: all of them.
        warmup: first steps of a row that recompute everything.
        every: steps of a block after which everything is recomputed again; None: not before the next block. The
            reference exempts the first block from it; we do not.

    Raises:
        SettingsError: a negative width, ``every`` below 1.
    """

    before: int | None = 16
    after: int | None = 16
    warmup: int = 4
    every: int | None = None

    schedule_known = uniform_feed = True

    @property
    def refreshes_with_blocks(self) -> bool:  # type: ignore[override]
        return self.every is None

    def __post_init__(self) -> None:
        at_least(0, before=self.before, after=self.after, warmup=self.warmup)
        at_least(1, every=self.every)

    @property
    def widths(self) -> dict[str, int | None]:
        return {"before": self.before, "after": self.after}

    def refreshes(self, row: Row) -> bool:
        return row.steps < self.warmup or row.block_steps == 0 or every_steps(row.block_steps, self.every)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live & window(context, self.before, self.after)


def window(context: PolicyContext, left: int | None, right: int | None) -> Bool[Tensor, "B W"]:
    """The block, ``left`` positions before and ``right`` behind it; None: all there are."""
    start = context.block_start * 0 if left is None else context.block_start - left
    end = context.block_end if right is None else context.block_end + right
    inside = context.span(start, end)
    return inside if right is not None else inside | (context.columns >= context.block_end)
