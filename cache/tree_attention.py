"""Tree attention: several branches of a row look at its stored keys and values, each with its own entries and those of
the branches it follows in their places.

A branch lies in a row of its own (:class:`BranchKV`), or one behind the other with the others of its row under a mask
(:class:`PackedKV`). The store is left alone until a branch is accepted; then what it and those it follows computed is
written, as if they alone had been fed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from cache.kv_store import Access, flat
from dlm.engine.canvas import pack_positions
from dlm.engine.plan import PackedBranches
from dlm.models.block import Block, Exchange


@dataclass
class Fresh:
    """Keys and values that one layer computed for branches, to be kept if they are: ``[R, T, ...]`` each.

    A holder per layer, so that compiled layers all look alike.

    Attributes:
        keys, values: theirs; there beforehand as room in ``stack`` where all layers lie in one.
    """

    keys: Any = None
    values: Any = None
    stack: Any = None


@dataclass(frozen=True)
class BranchVisibility:
    """Who of several branches sees what: at every position the latest entry on the way to it.

    Attributes:
        slot: the store's row each branch looks at. ``[R]``
        positions: what each branch is fed, the last column for unused entries. ``[R, T]``
        fed: the same as a mask. ``[R, W]``
        before: the branch that computed a position last among those it follows; -1: none did, the store has it. None:
            all branches of a row are fed the same positions, so that none lacks what others were fed. ``[R, W]``
        borrowed: positions it is not fed whose entry is another branch's, the last column for unused ones. ``[R, X]``
        reach: how many columns are attended to.
    """

    slot: Int[Tensor, " R"]
    positions: Int[Tensor, "R T"]
    fed: Bool[Tensor, "R W"]
    before: Int[Tensor, "R W"] | None
    borrowed: Int[Tensor, "R X"]
    reach: int

    @cached_property
    def latest(self) -> Int[Tensor, "R W"]:
        """The branch whose entry each branch sees at a position; -1: the store's."""
        own = torch.arange(self.fed.shape[0], device=self.fed.device)
        return torch.where(self.fed, own[:, None], -1 if self.before is None else self.before)

    @cached_property
    def entry(self) -> Int[Tensor, "R W"]:
        """Where in its feed each branch has a position; 0 where it has not."""
        entries = torch.arange(self.positions.shape[1], device=self.positions.device).expand_as(self.positions)
        return torch.zeros_like(self.fed, dtype=torch.long).scatter(1, self.positions, entries)

    def doubled(self, rows: int) -> BranchVisibility:
        """For two streams, the second in the store's rows from ``rows`` on."""
        before = self.before
        if before is not None:
            before = torch.cat([before, torch.where(before < 0, before, before + self.fed.shape[0])])
        return BranchVisibility(
            slot=torch.cat([self.slot, self.slot + rows]),
            positions=torch.cat([self.positions] * 2),
            fed=torch.cat([self.fed] * 2),
            before=before,
            borrowed=torch.cat([self.borrowed] * 2),
            reach=self.reach,
        )


class Source(NamedTuple):
    """Entries of a feed, and where they belong: flattened numbers of both."""

    places: Int[Tensor, " P"]
    entries: Int[Tensor, " P"]


@dataclass(frozen=True)
class BranchKV(Access):
    """Every branch has the store's row to itself, with its own entries in their places and those of the branches it
    follows; the store is left alone until something is accepted.

    Attributes:
        visibility: who sees what.
        fresh: per layer the keys and values of the feed, filled by the forward.
    """

    visibility: BranchVisibility = field(kw_only=True)
    fresh: list[Fresh] = field(default_factory=list)

    def exchange(self, layer: int, block: Block, x: Tensor) -> Exchange:
        """Attend to a copy of the store's rows with the branches' entries in it."""
        keys, values = self.store.layer(layer, block, x)
        device = keys.device
        own, lent = (Source(*(t.to(device) for t in source)) for source in (self._own, self._lent))
        # Whatever is computed is kept apart until the host says which branch the row becomes.
        self.fresh.append(self._room(keys, x))
        return AttendBranches(
            keys, values, self.visibility.slot.to(device), self.visibility.reach, own, lent, self.fresh[-1]
        )

    def _room(self, keys: Tensor, x: Tensor) -> Fresh:
        """Where the next layer puts what it computes."""
        if self.store.stack is None:
            return Fresh()
        number = 2 * len(self.fresh)
        shape = (2 * self.store.together, *x.shape[:2], *keys.shape[2:])
        stack = self.fresh[0].stack if self.fresh else keys.new_empty(shape)
        return Fresh(stack[number], stack[number + 1], stack)

    def along_sequence(
        self, order: PackedBranches, valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None
    ) -> tuple[Access, Bool[Tensor, "B Q K"]]:
        """See :class:`dlm.engine.plan.FeedMemory`."""
        slot, each = self.visibility.slot[order.grid[:, 0]], order.grid.shape[1]
        tree = PackedKV(
            self.store, slot=slot, reach=self.visibility.reach, back=order.back, each=each, fresh=self.fresh
        )
        return tree, branch_mask(self.visibility, order, valid)

    def doubled(self) -> BranchKV:
        """The same branches in both streams."""
        return replace(self, visibility=self.visibility.doubled(self.store.rows // 2))

    @cached_property
    def _own(self) -> Source:
        """A branch's own entries."""
        rows, fed = self.visibility.positions.shape
        row = torch.arange(rows, device=self.visibility.positions.device)[:, None] * self.store.columns
        return Source((row + self.visibility.positions).flatten(), torch.arange(rows * fed, device=row.device))

    @cached_property
    def _lent(self) -> Source:
        """Entries of branches it follows."""
        if not self.visibility.borrowed.shape[1]:
            nothing = self.visibility.borrowed.flatten()
            return Source(nothing, nothing)
        return self._at(
            torch.arange(self.visibility.fed.shape[0], device=self.visibility.fed.device), self.visibility.borrowed
        )

    def _at(self, rows: Int[Tensor, " A"], positions: Int[Tensor, "A U"]) -> Source:
        """The entries these branches see at positions that some branch was fed; a place per entry in a buffer whose
        rows are ``rows``."""
        # Positions that nobody was fed are fillers at the last column; any entry will do for them.
        branch = self.visibility.latest[rows].gather(1, positions).clamp_min(0)
        entry = self.visibility.entry[branch, positions]
        places = rows[:, None] * self.store.columns + positions
        return Source(places.flatten(), (branch * self.visibility.positions.shape[1] + entry).flatten())

    def accept(self, kept: Int[Tensor, " A"], most: int) -> None:
        """Write what these branches, and those they follow, computed: at most ``most`` positions of each."""
        branches = self.visibility.fed.shape[0]
        if self.fresh and self.fresh[0].keys.shape[0] == 2 * branches:  # two streams were fed
            self.doubled()._write(torch.cat([kept, kept + branches]), most)
        else:
            self._write(kept, most)

    def _write(self, kept: Int[Tensor, " A"], most: int) -> None:
        slot, columns = self.visibility.slot, self.store.columns
        if self.visibility.before is None:
            # Every entry is copied, those of other branches to the column that nobody attends to: what is kept need not
            # be gathered first, layer by layer.
            is_kept = torch.zeros_like(slot, dtype=torch.bool).index_fill_(0, kept, True)
            at = torch.where(is_kept[:, None], self.visibility.positions, columns - 1)
            places, entries = (slot[:, None] * columns + at).flatten(), None
        else:
            latest = self.visibility.latest[kept]
            at = pack_positions(latest >= 0, torch.arange(columns, device=latest.device), most)
            places, entries = (slot[kept][:, None] * columns + at).flatten(), self._at(kept, at).entries
        # One copy per layer, or one in all: a kept branch and all those it follows are written at once, the latest
        # entry each.
        if self.store.stack is not None and self.fresh[0].stack is not None:
            store, new = (x.flatten(3).flatten(1, 2) for x in (self.store.stack, self.fresh[0].stack))
            store.index_copy_(1, places, new if entries is None else new[:, entries])
            return
        for layer, fresh in enumerate(self.fresh):
            for buffer, new in ((self.store.keys[layer], fresh.keys), (self.store.values[layer], fresh.values)):
                new = flat(new) if entries is None else flat(new)[entries.to(buffer.device)]
                flat(buffer).index_copy_(0, places.to(buffer.device), new)


@dataclass
class AttendBranches:
    """The exchange of :class:`BranchKV`, one layer of it."""

    key: Tensor
    value: Tensor
    slot: Tensor
    reach: int
    own: Source
    lent: Source
    fresh: Fresh

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.fresh.stack is None:
            self.fresh.keys, self.fresh.values = k.contiguous(), v.contiguous()
        else:
            self.fresh.keys.copy_(k)
            self.fresh.values.copy_(v)
        k, v = self.fresh.keys, self.fresh.values
        return self._seen(self.key, k), self._seen(self.value, v), mask

    def _seen(self, buffer: Tensor, new: Tensor) -> Tensor:
        # A copy of the row for each branch: attention wants its keys in one piece, and branches differ in them. What a
        # branch was not fed but one before it was comes on top, at the place it has in the row.
        copy, entries = buffer.index_select(0, self.slot), flat(new)
        flat(copy).index_copy_(0, self.own.places, entries)
        if self.lent.places.numel():
            flat(copy).index_copy_(0, self.lent.places, entries[self.lent.entries])
        return copy[:, : self.reach]


@dataclass(frozen=True)
class PackedKV(Access):
    """Stored entries of a row followed by those of all its branches.

    Attributes:
        slot: the store's row each fed row looks at. ``[B]``
        reach: how many stored columns are attended to.
        back: where each branch stands in the feed, counted in branches. ``[R]``
        each: branches of a row in the feed.
        fresh: per layer the keys and values of every branch, ``[R, T, ...]``, filled by the forward.
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
        return AttendPacked(key, value, slot, self.reach, (back, self.each), self.fresh[-1])

    def doubled(self) -> PackedKV:
        """The same in both streams."""
        second = self.back + self.each * self.slot.shape[0]
        slot = torch.cat([self.slot, self.slot + self.store.rows // 2])
        return replace(self, slot=slot, back=torch.cat([self.back, second]))


@dataclass
class AttendPacked:
    """The exchange of :class:`PackedKV`, one layer of it; ``branches``: where they stand, and how many a row has."""

    key: Tensor
    value: Tensor
    slot: Tensor
    reach: int
    branches: tuple[Tensor, int]
    fresh: Fresh

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        self.fresh.keys, self.fresh.values = self._apart(k), self._apart(v)
        return self._seen(self.key, k), self._seen(self.value, v), mask

    def _seen(self, buffer: Tensor, new: Tensor) -> Tensor:
        # Side by side, not in place: one row of stored keys serves all branches, and the mask says who sees which.
        return torch.cat([buffer[:, : self.reach].index_select(0, self.slot), new], dim=1)

    def _apart(self, entries: Tensor) -> Tensor:
        back, each = self.branches
        return rearrange(entries, "b (e t) k h -> (b e) t k h", e=each)[back]


def branch_mask(
    visibility: BranchVisibility, order: PackedBranches, valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None
) -> Bool[Tensor, "B Q K"]:
    """From query to key: stored columns that no branch on the way was fed, and the latest entry of all others."""
    (own, each), (rows, length), reach = order.grid.shape, visibility.positions.shape, visibility.reach
    if valid is None:
        valid = torch.ones(rows, reach, dtype=torch.bool, device=visibility.positions.device)
    seen = (valid if valid.dim() == 3 else valid[:, None])[order.grid]  # [B, E, T or 1, S]
    latest = visibility.latest[order.grid]  # [B, E, W]
    stored = seen & (latest[..., :reach] < 0)[:, :, None]
    # The entries of every branch: where they stand, and whose they are.
    where = visibility.positions[order.grid].flatten(1)
    whose = torch.where(order.there, order.grid, -2).repeat_interleave(length, dim=1)
    # A branch sees its own entry, or that of one it follows: of all entries at a position just one is the latest to it.
    inside = (where < reach)[:, None]
    at = where.clamp_max(reach - 1)[:, None].expand(own, each, -1)
    mine = inside & (latest.gather(2, at) == whose[:, None])
    fresh = seen.gather(3, at[:, :, None].expand(own, each, seen.shape[2], -1)) & mine[:, :, None]
    mask = torch.cat([stored, fresh], dim=3).expand(own, each, length, -1)
    return mask.flatten(1, 2)
