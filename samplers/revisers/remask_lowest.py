"""ReMDM: the least certain tokens get another chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Reviser
from dlm.engine.step import StepView, rank
from samplers.budgets.remdm import RemaskingLoop, in_extra_cycles


@dataclass(frozen=True)
class RemaskLowest(Reviser):
    """Before every extra cycle of ``loop`` remask the tokens of the block that were committed with the lowest
    confidence, as many as the cycle commits again (ReMDM on LLaDA, arXiv 2503.00307)."""

    loop: RemaskingLoop

    partners = (RemaskingLoop,)

    def fits(self, budget: RemaskingLoop) -> str | None:
        """Why the two would not come to an end together."""
        return None if budget == self.loop else f"the loop is {self.loop} here and {budget} there, give both the same"

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Bool[Tensor, "B W"], None]:
        canvas, blocks = view.canvas, view.blocks
        committed = blocks.block & canvas.writable & ~canvas.masked & (canvas.commit_step >= 0)
        next_is_extra = in_extra_cycles(self.loop, blocks, blocks.block_step + 1)
        confidence = canvas.commit_confidence.nan_to_num(nan=1.0)
        lowest = rank((-confidence).masked_fill(~committed, -torch.inf)) < self.loop.number
        # A block that is full has no step left to refill it.
        open_ = (blocks.block & canvas.masked).any(dim=1)
        return lowest & committed & (next_is_extra & open_)[:, None], state
