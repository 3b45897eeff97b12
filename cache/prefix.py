"""Prefix cache (Fast-dLLM, arXiv 2505.22618)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from dlm.engine.row import Row
from dlm.engine.step import State


@dataclass(frozen=True)
class Prefix(Policy):
    """Everything before the active block is computed once per block, at its first step; the block and all that follows
    it are recomputed at every step."""

    schedule_known = uniform_feed = refreshes_with_blocks = True

    def refreshes(self, row: Row) -> bool:
        return row.block_steps == 0

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live & (context.columns >= context.block_start - context.shift)
