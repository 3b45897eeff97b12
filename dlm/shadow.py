"""A second, masked copy of the active block beside the row: what would the model say without seeing each token?

The shadow of WINO (arXiv 2507.18578, figure 2b). Slot j stands at block position s + j and holds the mask. The row does
not see the shadow; slot j sees the whole row except position s + j, and all other slots.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.canvas import Canvas
from dlm.protocols import ForwardPlan
from dlm.view import Clock


def slots_of(clock: Clock, longest: int) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Position of each slot, and whether it lies in the block."""
    positions = clock.block_start[:, None] + torch.arange(longest, device=clock.block_start.device)
    inside = positions < clock.block_end[:, None]
    return torch.where(inside, positions, clock.block_start[:, None]), inside


def with_shadow(plan: ForwardPlan, canvas: Canvas, clock: Clock, longest: int) -> ForwardPlan:
    """The plan with ``longest`` shadow slots behind what it feeds."""
    rows, fed = plan.tokens.shape
    slots, inside = slots_of(clock, longest)
    positions = plan.positions if plan.positions is not None else canvas.columns[:fed].expand(rows, fed)
    seen = plan.valid if plan.valid is not None else torch.ones_like(plan.tokens, dtype=torch.bool)
    row_sees = torch.cat([seen, torch.zeros_like(inside)], dim=1)[:, None, :].expand(-1, fed, -1)
    others = seen[:, None, :] & (positions[:, None, :] != slots[:, :, None])
    slot_sees = torch.cat([others, inside[:, None, :].expand(-1, longest, -1)], dim=2)
    return replace(
        plan,
        tokens=torch.cat([plan.tokens, torch.full_like(slots, canvas.mask_id)], dim=1),
        positions=torch.cat([positions, slots], dim=1),
        valid=torch.cat([row_sees, slot_sees], dim=1),
    )


def lay_out(
    probs: Float[Tensor, "B S"], slots: Int[Tensor, "B S"], inside: Bool[Tensor, "B S"], canvas: Canvas
) -> Float[Tensor, "B W"]:
    """The slots' values at their canvas positions, NaN everywhere else."""
    laid = probs.new_full(canvas.tokens.shape, torch.nan)
    laid = laid.scatter(1, slots.masked_fill(~inside, canvas.trash), probs)
    laid[:, canvas.trash] = torch.nan
    return laid
