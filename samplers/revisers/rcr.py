"""RCR: everything committed keeps competing with what is open, and what is outdone is masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.interfaces import Budget, Reviser, Selector
from dlm.engine.step import StepView
from samplers.settings import at_least


@dataclass(frozen=True)
class RunningConfidence(Selector):
    """All positions of the block compete, open ones with their present confidence, committed ones with that of their
    commit, and as many as the budget leaves open, the least sure, are masked after the step: the other open ones are
    committed, and committed ones among them remasked by :class:`samplers.RemaskOvertaken` (running confidence
    remasking, RCR, of MDPO, arXiv 2508.13148, as its code does it). Of equal ones the higher position is masked."""

    uses_budget = always_commits = True

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.budget is not None
        canvas = view.canvas
        prob = torch.zeros_like(canvas.commit_confidence).scatter_(1, view.positions, view.proposal.prob.double())
        place = surest_first(view, torch.where(canvas.masked, prob, canvas.commit_confidence))
        left = view.eligible.sum(dim=1, keepdim=True) - view.budget[:, None]
        return place.gather(1, view.positions) < place.shape[1] - left, state


@dataclass(frozen=True)
class RemaskOvertaken(Reviser):
    """Remask the tokens of the block that are less sure than what stays open; see :class:`samplers.RunningConfidence`,
    whose budget bounds it.

    Of the least sure positions that are to be masked all open ones are there already; so these are the least sure
    tokens, as many as were committed beyond the budget."""

    partners = (RunningConfidence,)

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Bool[Tensor, "B W"], None]:
        assert view.budget is not None
        place = surest_first(view, view.canvas.commit_confidence)
        number = chosen.sum(dim=1, keepdim=True) - view.budget[:, None]
        return place >= place.shape[1] - number, state


def surest_first(view: StepView, sure: Float[Tensor, "B W"]) -> Int[Tensor, "B W"]:
    """Place of every position in descending order; in front what is outside the block and what no step has committed,
    which has no confidence (NaN), and stays."""
    return view.rank(torch.where(view.blocks.block, sure, view.canvas.number(torch.inf, sure.dtype)))


@dataclass(frozen=True)
class FlooredShares(Budget):
    """As many positions as the grid of MDPO's published code says: after step t of T of a block floor(n (1 - t / T)) of
    its n masks are left, in floating point, which at times leaves one fewer than the exact value.

    Raises:
        SettingsError: steps below 1.
    """

    steps: int

    plans_blocks = True

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        blocks, canvas = view.blocks, view.canvas
        until = (blocks.block_end - canvas.start) * self.steps // canvas.region
        steps = (until // blocks.block_number).clamp_min(1)
        share = (1 - (blocks.block_step + 1).double() / steps).clamp_min(1e-6)
        left = (blocks.block_masks * share).floor().long()
        return view.eligible.sum(dim=1) - left, state
