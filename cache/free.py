"""FreeCache (FlashDLM, arXiv 2505.21467), with the delay put right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from dlm.engine.canvas import Canvas
from dlm.engine.row import Row
from dlm.engine.step import State, StepView


@dataclass(frozen=True)
class FreeCache(Policy):
    """A finished block is frozen for good and never refreshed; everything behind it is recomputed at every step.

    The released code freezes the keys of the block's last step, when its last tokens were still masks. Here a finished
    block is computed once more, in the first step of the next one, and frozen then.
    """

    schedule_known = spans_blocks = True

    def init(self, canvas: Canvas) -> Int[Tensor, " B"]:
        return torch.zeros_like(canvas.start)

    def refreshes(self, row: Row) -> bool:
        return row.steps == 0

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        clean = torch.minimum(state, context.query.blocks.block_start)[:, None]
        return context.live & (context.columns >= clean - context.shift)

    def remember(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[State, dict[str, Tensor]]:
        return view.blocks.block_start, {}
