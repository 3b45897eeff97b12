"""A second, masked copy of the active block beside the row: what would the model say without seeing each token?

The shadow of WINO (arXiv 2507.18578, figure 2b). Slot j stands at block position s + j and holds the mask. The row does
not see the shadow; slot j sees the whole row except position s + j, and all other slots.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.plan import Feed
from dlm.engine.step import BlockState


def slots_of(blocks: BlockState, longest: int) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Position of each slot, and whether it lies in the block."""
    positions = blocks.block_start[:, None] + torch.arange(longest, device=blocks.block_start.device)
    inside = positions < blocks.block_end[:, None]
    return torch.where(inside, positions, blocks.block_start[:, None]), inside


def with_shadow(feed: Feed, canvas: Canvas, blocks: BlockState, longest: int) -> Feed:
    """The feed with ``longest`` shadow slots behind what it feeds."""
    if feed.slots is not None:
        blocks = replace(blocks, block_start=blocks.block_start[feed.slots], block_end=blocks.block_end[feed.slots])
    rows, fed = feed.tokens.shape
    slots, inside = slots_of(blocks, longest)
    positions = feed.positions if feed.positions is not None else canvas.columns[:fed].expand(rows, fed)
    keys = positions if feed.stored is None else canvas.columns[: feed.stored].expand(rows, feed.stored)
    seen = feed.valid if feed.valid is not None else torch.ones_like(keys, dtype=torch.bool)
    row_sees = torch.cat([seen, torch.zeros_like(inside)], dim=1)[:, None, :].expand(-1, fed, -1)
    others = seen[:, None, :] & (keys[:, None, :] != slots[:, :, None])
    slot_sees = torch.cat([others, inside[:, None, :].expand(-1, longest, -1)], dim=2)
    return replace(
        feed,
        tokens=torch.cat([feed.tokens, torch.full_like(slots, canvas.mask_id)], dim=1),
        positions=torch.cat([positions, slots], dim=1),
        valid=torch.cat([row_sees, slot_sees], dim=1),
        memory=None if feed.memory is None else feed.memory.extended(longest),
    )


def lay_out(
    probs: Float[Tensor, "B S"], slots: Int[Tensor, "B S"], inside: Bool[Tensor, "B S"], canvas: Canvas
) -> Float[Tensor, "B W"]:
    """The slots' values at their canvas positions, NaN everywhere else."""
    laid = probs.new_full(canvas.tokens.shape, torch.nan)
    laid = laid.scatter(1, slots.masked_fill(~inside, canvas.scratch), probs)
    laid[:, canvas.scratch] = torch.nan
    return laid
