"""Dual cache (Fast-dLLM, arXiv 2505.22618)."""

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
class Dual(Policy):
    """What lies before and behind the active block is computed once per block, at its first step; only the block is
    recomputed at every step.

    Attributes:
        every: steps of a block after which everything is recomputed again; None: not before the next block.

    Raises:
        SettingsError: ``every`` below 1.
    """

    every: int | None = None

    schedule_known = uniform_feed = True

    @property
    def refreshes_with_blocks(self) -> bool:  # type: ignore[override]
        return self.every is None

    def __post_init__(self) -> None:
        at_least(1, every=self.every)

    def refreshes(self, row: Row) -> bool:
        return row.block_steps == 0 or every_steps(row.block_steps, self.every)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.span(context.block_start, context.block_end)
