"""RCR: positions compete with the best confidence they ever had, and tokens that were overtaken are masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser, Selector
from dlm.engine.step import StepView, rank


def no_best(canvas: Canvas) -> Float[Tensor, "B W"]:
    """The largest confidence each position has had before its first."""
    return torch.full(canvas.tokens.shape, -torch.inf, device=canvas.tokens.device)


def updated_best(view: StepView, best: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
    """The largest confidence each position has had, this step's included."""
    prob = view.proposal.prob.float().masked_fill(~view.eligible, -torch.inf)
    return torch.maximum(best, view.on_canvas(prob, -torch.inf))


@dataclass(frozen=True)
class RunningConfidence(Selector):
    """Rank all positions of the block, open or committed, by the largest confidence they have had, and let the best
    n hold a token, n growing by the budget at every step: open ones among them are committed, committed ones that fell
    out are remasked by :class:`samplers.RemaskOvertaken` (running confidence remasking of MDPO; details UNVERIFIED).
    """

    uses_budget = True

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        return no_best(canvas)

    def step(self, view: StepView, state: Float[Tensor, "B W"]) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B W"]]:
        assert view.budget is not None
        state = updated_best(view, state)
        block = view.blocks.block & view.canvas.writable
        held = (block & ~view.canvas.masked).sum(dim=1)
        place = rank(state.masked_fill(~block, -torch.inf))
        holds = block & (place < (held + view.budget)[:, None])
        return view.here(holds) & view.eligible, state


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
