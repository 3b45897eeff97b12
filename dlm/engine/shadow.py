"""A second, masked copy of the active block beside the row: what would the model say without seeing each token?

The shadow of WINO (arXiv 2507.18578, figure 2b). Slot j stands at block position s + j and holds the mask. The row does
not see the shadow; slot j sees the whole row except position s + j, and all other slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.plan import Feed
from dlm.engine.step import BlockState


class Slots(NamedTuple):
    """The slots beside some rows.

    Attributes:
        positions: of each; the block's first one where the block has fewer. ``[B, S]``
        inside: whether it lies in the block. ``[B, S]``
        columns: where on the canvas, the scratch column for those outside. ``[B, S]``
        tokens: masks. ``[B, S]``
    """

    positions: Int[Tensor, "B S"]
    inside: Bool[Tensor, "B S"]
    columns: Int[Tensor, "B S"]
    tokens: Int[Tensor, "B S"]

    @classmethod
    def of(cls, canvas: Canvas, blocks: BlockState, longest: int) -> Slots:
        """``longest`` slots beside the block of every row."""
        first = blocks.block_start[:, None]
        positions = first + torch.arange(longest, device=first.device)
        inside = positions < blocks.block_end[:, None]
        columns = torch.where(inside, positions, canvas.columns[-1])
        return cls(torch.where(inside, positions, first), inside, columns, torch.full_like(columns, canvas.mask_id))


@dataclass
class Shadow:
    """The shadow of the blocks of a run; what does not change within a block is made once.

    Attributes:
        longest: slots beside each row.
        keeps: whether anything is kept. Steps that are replayed write other blocks into the same tensors.
    """

    longest: int
    keeps: bool = True
    _slots: tuple[BlockState, Slots] | None = field(default=None, init=False, repr=False)
    _sees: tuple[tuple[object, ...], tuple[object, ...], Tensor] | None = field(default=None, init=False, repr=False)

    def slots(self, canvas: Canvas, blocks: BlockState) -> Slots:
        """Beside every row."""
        kept = self._slots
        if kept is not None and kept[0].block_start is blocks.block_start and kept[0].block_end is blocks.block_end:
            return kept[1]
        slots = Slots.of(canvas, blocks, self.longest)
        self._slots = (blocks, slots) if self.keeps else None
        return slots

    def beside(self, feed: Feed, canvas: Canvas, blocks: BlockState) -> Feed:
        """The feed with the slots behind what it feeds."""
        if feed.slots is None:
            slots = self.slots(canvas, blocks)
        else:
            of = replace(blocks, block_start=blocks.block_start[feed.slots], block_end=blocks.block_end[feed.slots])
            slots = Slots.of(canvas, of, self.longest)
        rows, fed = feed.tokens.shape
        positions = feed.positions if feed.positions is not None else canvas.columns[:fed].expand(rows, fed)
        return replace(
            feed,
            tokens=torch.cat([feed.tokens, slots.tokens], dim=1),
            positions=torch.cat([positions, slots.positions], dim=1),
            valid=self._mask(feed, canvas, positions, slots),
            memory=None if feed.memory is None else feed.memory.extended(self.longest),
        )

    def _mask(self, feed: Feed, canvas: Canvas, positions: Int[Tensor, "R T"], slots: Slots) -> Bool[Tensor, "R Q K"]:
        """What the fed positions, and the slots behind them, see. Over stored keys it does not matter which positions
        are fed."""
        key = (slots, feed.valid, feed.positions if feed.stored is None else None)
        kept, sizes = self._sees, (positions.shape, feed.stored)
        if kept is not None and kept[1] == sizes and all(a is b for a, b in zip(kept[0], key, strict=True)):
            return kept[2]
        (rows, fed), stored = positions.shape, feed.stored
        keys = positions if stored is None else canvas.columns[:stored].expand(rows, stored)
        seen = feed.valid if feed.valid is not None else torch.ones_like(keys, dtype=torch.bool)
        row_sees = torch.cat([seen, torch.zeros_like(slots.inside)], dim=1)[:, None, :].expand(-1, fed, -1)
        others = seen[:, None, :] & (keys[:, None, :] != slots.positions[:, :, None])
        slot_sees = torch.cat([others, slots.inside[:, None, :].expand(-1, self.longest, -1)], dim=2)
        sees = torch.cat([row_sees, slot_sees], dim=1)
        self._sees = (key, sizes, sees) if self.keeps else None
        return sees


def with_shadow(feed: Feed, canvas: Canvas, blocks: BlockState, longest: int) -> Feed:
    """The feed with ``longest`` shadow slots behind what it feeds."""
    return Shadow(longest).beside(feed, canvas, blocks)


def lay_out(probs: Float[Tensor, "B S"], slots: Slots, canvas: Canvas) -> Float[Tensor, "B W"]:
    """The slots' values at their canvas positions, NaN everywhere else."""
    laid = probs.new_full(canvas.tokens.shape, torch.nan).scatter_(1, slots.columns, probs)
    laid[:, canvas.scratch].fill_(torch.nan)
    return laid
