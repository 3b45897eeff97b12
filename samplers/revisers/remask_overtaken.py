"""RCR's second half: tokens that were overtaken are masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser
from dlm.engine.step import StepView, rank
from samplers.selectors.running_confidence import RunningConfidence, no_best, updated_best


@dataclass(frozen=True)
class RemaskOvertaken(Reviser):
    """Remask the tokens of the block with the smallest running confidence, as many as the step committed beyond its
    budget; see :class:`samplers.RunningConfidence`, whose budget bounds it."""

    partners = (RunningConfidence,)

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        return no_best(canvas)

    def step(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Float[Tensor, "B W"]
    ) -> tuple[Bool[Tensor, "B W"], Float[Tensor, "B W"]]:
        assert view.budget is not None
        state = updated_best(view, state)
        canvas = view.canvas
        committed = view.blocks.block & canvas.writable & ~canvas.masked
        surplus = (chosen.sum(dim=1) - view.budget).clamp_min(0)
        # Equal ones: the higher position gives way, so that both halves rank alike.
        weakest = rank((-state).masked_fill(~committed, -torch.inf).flip(1)).flip(1)
        return committed & (weakest < surplus[:, None]), state
