"""Several versions of a row look at its keys and values; what they compute is kept only if they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.kv_store import Access, flat
from cache.tree_attention import PackedKV, visible
from cache.visibility import BranchVisibility, Fresh
from dlm.engine.canvas import pack_positions
from dlm.engine.plan import PackedBranches
from dlm.models.transformer import Block, Exchange


class Source(NamedTuple):
    """Entries of a feed, and where they belong: flattened numbers of both."""

    places: Int[Tensor, " P"]
    entries: Int[Tensor, " P"]


@dataclass(frozen=True)
class BranchKV(Access):
    """Every version has the store's row to itself, with its own entries in their places and those of the versions it
    follows; the store is left alone until something is accepted.

    Attributes:
        sight: who sees what.
        fresh: per layer the keys and values of the feed, filled by the forward.
    """

    sight: BranchVisibility = field(kw_only=True)
    fresh: list[Fresh] = field(default_factory=list)

    def exchange(self, layer: int, block: Block, x: Tensor) -> Exchange:
        """Attend to a copy of the store's rows with the versions' entries in it."""
        keys, values = self.store.layer(layer, block, x)
        device = keys.device
        own, lent = (Source(*(t.to(device) for t in source)) for source in (self._own, self._lent))
        self.fresh.append(Fresh())
        return PeekThere(keys, values, self.sight.slot.to(device), self.sight.reach, own, lent, self.fresh[-1])

    def along_sequence(
        self, order: PackedBranches, valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None
    ) -> tuple[Access, Bool[Tensor, "B Q K"]]:
        """See :class:`dlm.engine.plan.Memory`."""
        slot, each = self.sight.slot[order.grid[:, 0]], order.grid.shape[1]
        tree = PackedKV(self.store, slot=slot, reach=self.sight.reach, back=order.back, each=each, fresh=self.fresh)
        return tree, visible(self.sight, order, valid)

    def doubled(self) -> BranchKV:
        """The same versions in both streams."""
        return replace(self, sight=self.sight.doubled(self.store.rows // 2))

    @cached_property
    def _own(self) -> Source:
        """A version's own entries."""
        rows, fed = self.sight.positions.shape
        row = torch.arange(rows, device=self.sight.positions.device)[:, None] * self.store.columns
        return Source((row + self.sight.positions).flatten(), torch.arange(rows * fed, device=row.device))

    @cached_property
    def _lent(self) -> Source:
        """Entries of versions it follows."""
        return self._at(torch.arange(self.sight.fed.shape[0], device=self.sight.fed.device), self.sight.borrowed)

    def _at(self, rows: Int[Tensor, " A"], positions: Int[Tensor, "A U"]) -> Source:
        """The entries these versions see at positions that some version was fed; a place per entry in a buffer whose
        rows are ``rows``."""
        version = self.sight.latest[rows].gather(1, positions).clamp_min(0)
        entry = self.sight.entry[version, positions]
        places = rows[:, None] * self.store.columns + positions
        return Source(places.flatten(), (version * self.sight.positions.shape[1] + entry).flatten())

    def accept(self, kept: Int[Tensor, " A"], most: int) -> None:
        """Write what these versions, and those they follow, computed: at most ``most`` positions of each."""
        versions = self.sight.fed.shape[0]
        if self.fresh and self.fresh[0].keys.shape[0] == 2 * versions:  # two streams were fed
            self.doubled()._write(torch.cat([kept, kept + versions]), most)
        else:
            self._write(kept, most)

    def _write(self, kept: Int[Tensor, " A"], most: int) -> None:
        latest = self.sight.latest[kept]
        columns = torch.arange(latest.shape[1], device=latest.device)
        positions = pack_positions(latest >= 0, columns, most)
        entries = self._at(kept, positions).entries
        places = (self.sight.slot[kept][:, None] * self.store.columns + positions).flatten()
        for layer, fresh in enumerate(self.fresh):
            for buffer, new in ((self.store.keys[layer], fresh.keys), (self.store.values[layer], fresh.values)):
                flat(buffer).index_copy_(0, places.to(buffer.device), flat(new)[entries.to(buffer.device)])


@dataclass
class PeekThere:
    """The exchange of :class:`BranchKV`, one layer of it."""

    key: Tensor
    value: Tensor
    slot: Tensor
    reach: int
    own: Source
    lent: Source
    fresh: Fresh

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        k, v = k.contiguous(), v.contiguous()
        self.fresh.keys, self.fresh.values = k, v
        return self._seen(self.key, k), self._seen(self.value, v), mask

    def _seen(self, buffer: Tensor, new: Tensor) -> Tensor:
        copy, entries = buffer.index_select(0, self.slot), flat(new)
        flat(copy).index_copy_(0, self.own.places, entries)
        if self.lent.places.numel():
            flat(copy).index_copy_(0, self.lent.places, entries[self.lent.entries])
        return copy[:, : self.reach]
