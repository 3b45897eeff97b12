"""Prefix cache (Fast-dLLM, arXiv 2505.22618)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from dlm.engine.interfaces import State
from dlm.engine.row import Row


@dataclass(frozen=True)
class Prefix(Policy):
    """Everything before the active block is computed once per block, at its first step; the block and all that follows
    it are recomputed at every step."""

    schedule_known = uniform_feed = True

    def refreshes(self, row: Row) -> bool:
        return row.block_steps == 0

    def active(self, before: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return before.live & (before.columns >= before.block_start - before.shift)
