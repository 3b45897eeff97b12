"""RCR: everything committed keeps competing with what is open, and what is outdone is masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.interfaces import Budget, Reviser, Selector
from dlm.engine.step import StepView, rank
from samplers.settings import at_least


def standing(view: StepView) -> Float[Tensor, "B W"]:
    """How sure every position of the block is: of a committed one the confidence at its commit, of an open one the
    present one; inf outside, where nothing competes."""
    canvas = view.canvas
    prob = view.on_canvas(view.proposal.prob.double())
    value = torch.where(canvas.masked, prob, canvas.commit_confidence)
    # Tokens that no step has committed have no confidence, and stay.
    return value.masked_fill(value.isnan() | ~(view.blocks.block & canvas.writable), torch.inf)


def weakest(view: StepView, left: Int[Tensor, " B"]) -> Bool[Tensor, "B W"]:
    """The ``left`` positions of the block that are least sure; of equal ones the higher position gives way."""
    place = rank(-standing(view).flip(1)).flip(1)
    return (place < left[:, None]) & view.blocks.block


@dataclass(frozen=True)
class RunningConfidence(Selector):
    """All positions of the block compete, open ones with their present confidence, committed ones with that of their
    commit, and as many as the budget leaves open, the least sure, are masked after the step: the other open ones are
    committed, and committed ones among them remasked by :class:`samplers.RemaskOvertaken` (running confidence
    remasking, RCR, of MDPO, arXiv 2508.13148, as its code does it)."""

    uses_budget = True

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.budget is not None
        left = (view.eligible.sum(dim=1) - view.budget).clamp_min(0)
        return view.eligible & ~view.here(weakest(view, left)), state


@dataclass(frozen=True)
class RemaskOvertaken(Reviser):
    """Remask the tokens of the block that are less sure than what stays open; see :class:`samplers.RunningConfidence`,
    whose budget bounds it."""

    partners = (RunningConfidence,)

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Bool[Tensor, "B W"], None]:
        assert view.budget is not None
        open_ = view.blocks.block & view.canvas.masked
        left = (open_.sum(dim=1) + chosen.sum(dim=1) - view.budget).clamp_min(0)
        return weakest(view, left) & ~open_, state


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
