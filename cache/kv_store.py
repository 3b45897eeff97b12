"""Keys and values of every layer, in place at absolute positions; how a forward reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.plan import PackedBranches
from dlm.models.architecture import Rope
from dlm.models.block import Block, Exchange


@dataclass
class KVStore:
    """One buffer per layer for keys (after rotation) and one for values, ``[rows, columns, kv heads, head width]``.

    Key order is irrelevant to attention without a causal mask, so entries are written where they belong and nothing is
    ever moved or copied. Buffers start at zero: a masked key of NaN would poison the sum.

    Attributes:
        rows, columns: the capacity; the last column takes what belongs to nobody.
        together: the buffers of so many layers lie in one, ``stack``, so that one kernel can write to all of them: for
            one row, of which compaction never gives memory back.
        keys, values: per layer, made when the layer is first written.
    """

    rows: int
    columns: int
    together: int = 0
    stack: Tensor | None = None
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def layer(self, layer: int, block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers of a layer, for a stream like ``x``."""
        if layer == len(self.keys):
            shape = self.rows, self.columns, block.arch.kv_heads, block.arch.head_width
            # Layers may be spread over devices. Both buffers or none: the second may not fit into memory.
            weight = next(block.parameters())
            device = x.device if weight.is_meta else weight.device
            if layer == 0 and self.together:
                self.stack = torch.zeros(2 * self.together, *shape, dtype=x.dtype, device=device)
            if self.stack is None:
                key, value = (torch.zeros(shape, dtype=x.dtype, device=device) for _ in range(2))
            else:
                key, value = self.stack[2 * layer : 2 * layer + 2]
            self.keys.append(key)
            self.values.append(value)
        return self.keys[layer], self.values[layer]

    @property
    def nbytes(self) -> int:
        """Memory of all buffers."""
        storages = (buffer.untyped_storage() for buffer in (*self.keys, *self.values))
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def keep(self, slots: list[int]) -> None:
        """Row compaction: the rows move up within the buffers; what is at most half full is made anew, a layer at a
        time, so that the memory comes back. More rows than there are get buffers of their own."""
        if len(slots) > self.rows:
            self.together, self.stack = 0, None
        self.rows = len(slots)
        if self.stack is not None:
            return
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                buffers[layer] = move_up(buffer, slots)


def move_up(buffer: Tensor, slots: list[int]) -> Tensor:
    """``buffer[slots]`` for ascending slots, in the same memory while that is more than half full and large enough."""
    if len(slots) > buffer.shape[0]:
        return buffer[torch.tensor(slots, device=buffer.device)]
    for to, slot in enumerate(slots):
        if to != slot:
            buffer[to] = buffer[slot]
    kept = buffer[: len(slots)]
    return kept.clone() if 2 * kept.nbytes <= buffer.untyped_storage().nbytes() else kept


@dataclass(frozen=True)
class Access:
    """How one forward uses the store.

    Attributes:
        store: the buffers.
        extra: entries at the end of the feed that are seen and not kept.
    """

    store: KVStore
    extra: int = 0

    @property
    def columns(self) -> int:
        """No position lies beyond them."""
        return self.store.columns

    def run(self, layer: int, block: Block, x: Float[Tensor, "R T D"], rope: Rope, mask: Tensor | None) -> Tensor:
        """See :class:`dlm.engine.plan.FeedMemory`."""
        out: Tensor = block(x, rope, mask, None, self.exchange(layer, block, x))
        return out

    def exchange(self, layer: int, block: Block, x: Tensor) -> Exchange:
        """What the block does with its keys and values."""
        raise NotImplementedError

    def extended(self, extra: int) -> Access:
        """See :class:`dlm.engine.plan.FeedMemory`."""
        return replace(self, extra=extra)

    def along_sequence(
        self, order: PackedBranches, valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None
    ) -> tuple[Access, Bool[Tensor, "B Q K"]]:
        """See :class:`dlm.engine.plan.FeedMemory`; for branches that only look (`cache.tree_attention.BranchKV`)."""
        raise NotImplementedError

    def doubled(self) -> Access:
        """See :class:`dlm.engine.plan.FeedMemory`. The second stream has the second half of the store's rows."""
        raise NotImplementedError


@dataclass(frozen=True)
class Refreshing(Access):
    """Whole rows are fed: what they attend to is what is fed, and all of it is kept.

    Attributes:
        slots: the store's rows; None means all of them. ``[R]``
    """

    slots: Int[Tensor, " R"] | None = None

    def exchange(self, layer: int, block: Block, x: Tensor) -> Exchange:
        """Keep the keys and values, attend to them as they are."""
        key, value = self.store.layer(layer, block, x)
        slots = None if self.slots is None else self.slots.to(key.device)
        return KeepAll(key, value, slots, x.shape[1] - self.extra)

    def doubled(self) -> Refreshing:
        """The same slots of both streams."""
        half = self.store.rows // 2
        return self if self.slots is None else replace(self, slots=torch.cat([self.slots, self.slots + half]))


@dataclass(frozen=True)
class Writing(Access):
    """Some positions of every row are fed: they are written where they belong, and attend to the whole store.

    Attributes:
        positions: where the fed entries stand, the last column for unused ones. ``[R, T]``
        reach: how many columns are attended to.
    """

    positions: Any = None
    reach: int = 0

    def exchange(self, layer: int, block: Block, x: Tensor) -> Exchange:
        """Write, then attend to the store."""
        key, value = self.store.layer(layer, block, x)
        return WriteThere(key, value, self.places.to(key.device), self.reach, self.extra)

    @cached_property
    def places(self) -> Int[Tensor, " P"]:
        """The fed entries' places in the flattened store."""
        rows = torch.arange(self.positions.shape[0], device=self.positions.device)
        return (rows[:, None] * self.store.columns + self.positions).flatten()

    def doubled(self) -> Writing:
        """The same positions of both streams."""
        return replace(self, positions=torch.cat([self.positions, self.positions]))


@dataclass
class KeepAll:
    """The exchange of :class:`Refreshing`, one layer of it. Plain tensors only, so that a block can be compiled."""

    key: Tensor
    value: Tensor
    slots: Tensor | None
    width: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        for buffer, new in ((self.key, k), (self.value, v)):
            if self.slots is None:
                buffer[:, : self.width] = new[:, : self.width]
            else:
                buffer[self.slots, : self.width] = new[:, : self.width]
        # The row attends to what it has just computed, so the store is not read at all.
        return k, v, mask


@dataclass
class WriteThere:
    """The exchange of :class:`Writing`, one layer of it."""

    key: Tensor
    value: Tensor
    places: Tensor
    reach: int
    extra: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        fed = k.shape[1] - self.extra
        # One flat index for all rows; unused entries land in the last column, which nobody attends to.
        for buffer, new in ((self.key, k), (self.value, v)):
            flat(buffer).index_copy_(0, self.places, new[:, :fed].flatten(0, 1).flatten(1))
        key, value = self.key[:, : self.reach], self.value[:, : self.reach]
        if self.extra:
            # A shadow block is seen beside the store and never written: only here are keys copied.
            key, value = torch.cat([key, k[:, fed:]], dim=1), torch.cat([value, v[:, fed:]], dim=1)
        return key, value, mask


def flat(buffer: Float[Tensor, "R C K h"]) -> Float[Tensor, "P E"]:
    """A buffer as one list of entries."""
    return buffer.view(-1, buffer.shape[2] * buffer.shape[3])
