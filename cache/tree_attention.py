"""Versions of a row one behind the other in one feed: the store is read where it is, and a mask says who sees what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.kv_store import Access
from cache.visibility import BranchVisibility, Fresh
from dlm.engine.plan import PackedBranches
from dlm.models.transformer import Block, Exchange


@dataclass(frozen=True)
class PackedKV(Access):
    """Stored entries of a row followed by those of all its versions.

    Attributes:
        slot: the store's row each fed row looks at. ``[B]``
        reach: how many stored columns are attended to.
        back: where each version stands in the feed, counted in versions. ``[R]``
        each: versions of a row in the feed.
        fresh: per layer the keys and values of every version, ``[R, T, ...]``, filled by the forward.
    """

    slot: Int[Tensor, " B"] = field(kw_only=True)
    reach: int = field(kw_only=True)
    back: Int[Tensor, " R"] = field(kw_only=True)
    each: int = field(kw_only=True)
    fresh: list[Fresh] = field(kw_only=True)

    def exchange(self, layer: int, block: Block, x: Tensor) -> Exchange:
        """Attend to stored and fresh entries side by side."""
        key, value = self.store.layer(layer, block, x)
        self.fresh.append(Fresh())
        slot, back = self.slot.to(key.device), self.back.to(key.device)
        return LookBeside(key, value, slot, self.reach, (back, self.each), self.fresh[-1])

    def doubled(self) -> PackedKV:
        """The same in both streams."""
        second = self.back + self.each * self.slot.shape[0]
        slot = torch.cat([self.slot, self.slot + self.store.rows // 2])
        return replace(self, slot=slot, back=torch.cat([self.back, second]))


@dataclass
class LookBeside:
    """The exchange of :class:`PackedKV`, one layer of it; ``versions``: where they stand, and how many a row has."""

    key: Tensor
    value: Tensor
    slot: Tensor
    reach: int
    versions: tuple[Tensor, int]
    fresh: Fresh

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        self.fresh.keys, self.fresh.values = self._apart(k), self._apart(v)
        return self._seen(self.key, k), self._seen(self.value, v), mask

    def _seen(self, buffer: Tensor, new: Tensor) -> Tensor:
        return torch.cat([buffer[:, : self.reach].index_select(0, self.slot), new], dim=1)

    def _apart(self, entries: Tensor) -> Tensor:
        back, each = self.versions
        return entries.reshape(entries.shape[0] * each, -1, *entries.shape[2:])[back]


def visible(
    sight: BranchVisibility, order: PackedBranches, valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None
) -> Bool[Tensor, "B Q K"]:
    """From query to key: stored columns that no version on the way was fed, and the latest entry of all others."""
    (own, each), (rows, length), reach = order.grid.shape, sight.positions.shape, sight.reach
    if valid is None:
        valid = torch.ones(rows, reach, dtype=torch.bool, device=sight.positions.device)
    seen = (valid if valid.dim() == 3 else valid[:, None])[order.grid]  # [B, E, T or 1, S]
    latest = sight.latest[order.grid]  # [B, E, W]
    stored = seen & (latest[..., :reach] < 0)[:, :, None]
    # The entries of every version: where they stand, and whose they are.
    where = sight.positions[order.grid].flatten(1)
    whose = torch.where(order.there, order.grid, -2).repeat_interleave(length, dim=1)
    inside = (where < reach)[:, None]
    at = where.clamp_max(reach - 1)[:, None].expand(own, each, -1)
    mine = inside & (latest.gather(2, at) == whose[:, None])
    fresh = seen.gather(3, at[:, :, None].expand(own, each, seen.shape[2], -1)) & mine[:, :, None]
    mask = torch.cat([stored, fresh], dim=3).expand(own, each, length, -1)
    return mask.flatten(1, 2)
