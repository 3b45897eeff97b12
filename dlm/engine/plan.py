"""What a forward is fed: the question a cache is asked, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.row import Row
from dlm.engine.step import BlockState


@dataclass(frozen=True)
class Layout:
    """What a cache must know about a run before its first step.

    Attributes:
        rows: most rows of the batch.
        columns: width of the canvas, its trash column included.
        shift: as in :class:`dlm.models.backbone.ModelDescription`.
        attention_block: likewise.
        streams: 2 when a second, unguided stream of every row is fed (classifier-free guidance), else 1.
        static: whether the number of fed positions is rounded up, so that compiled code sees few shapes.
        device: where the canvas is.
    """

    rows: int
    columns: int
    shift: int
    attention_block: int
    streams: int
    static: bool
    device: torch.device


@dataclass(frozen=True)
class CacheQuery:
    """What is known before a forward.

    Attributes:
        canvas, blocks: tokens and counters; blocks are open.
        eligible: positions that may be committed. ``[B, W]``
        wanted: positions to propose for: the eligible ones and those a part looks at, except an early exit.
            ``[B, W]``
        rows: the host's account of each slot.
        leaving: positions an early exit looks at beside those; a forward that cannot end a row need not show them.
            None: there is no early exit, or it looks at nothing. ``[B, W]``
        upcoming: positions this step will commit, where the sampler can tell before the forward; None where it cannot
            or nobody asks. ``[B, W]``
        ahead: positions behind the block that drafts would like to see proposals for; they may not change what is
            computed for the others. None: there are none. ``[B, W]``
    """

    canvas: Canvas
    blocks: BlockState
    eligible: Bool[Tensor, "B W"]
    wanted: Bool[Tensor, "B W"]
    rows: Sequence[Row]
    exiting: Bool[Tensor, "B W"] | None = None
    upcoming: Bool[Tensor, "B W"] | None = None
    ahead: Bool[Tensor, "B W"] | None = None


class PackedBranches(NamedTuple):
    """How the versions of rows lie one behind the other in one feed.

    Attributes:
        grid: the versions of each row, the first one where a row has fewer. ``[B, E]``
        there: which of them are meant. ``[B, E]``
        back: the place of each version in the flattened grid. ``[R]``
    """

    grid: Int[Tensor, "B E"]
    there: Bool[Tensor, "B E"]
    back: Int[Tensor, " R"]


class Memory(Protocol):
    """What one forward reads and writes beside the positions it is fed."""

    def run(self, layer: int, block: Any, x: Float[Tensor, "R T D"], rope: Any, mask: Tensor | None) -> Tensor:
        """The stream after ``block`` (a :class:`dlm.models.transformer.Block`), the layer's stored keys and values
        included. ``mask`` is over what the feed attends to."""
        ...

    def extended(self, extra: int) -> Memory:
        """For a feed with ``extra`` more entries behind: they are seen where the mask says so, and not kept."""
        ...

    def doubled(self) -> Memory:
        """For a feed that has every row twice, the second time in its own stream."""
        ...

    def along_sequence(
        self, order: PackedBranches, valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None
    ) -> tuple[Memory, Bool[Tensor, "B Q K"]]:
        """For versions that were to be rows of a feed and now lie one behind the other; and the mask that keeps them
        apart, over what is stored and what is fed."""
        ...


@dataclass(frozen=True)
class Feed:
    """One call of the model.

    Attributes:
        tokens: the fed tokens. ``[R, T]``
        positions: their absolute positions, ascending; unused entries are at the canvas's trash column. None means
            ``0 .. T-1``. ``[R, T]``
        valid: which entries may be attended to; None means all. ``[R, S]``, or ``[R, T, S]`` from query to key; S is
            ``stored``, or T where that is None
        memory: where keys and values are kept, and those of other positions come from; None: nothing is kept.
        stored: attention is over the first ``stored`` columns of the memory; None: over what is fed alone.
        slots: the batch slots of these rows; None means every slot in order. ``[R]``
    """

    tokens: Int[Tensor, "R T"]
    positions: Int[Tensor, "R T"] | None = None
    valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None = None
    memory: Memory | None = None
    stored: int | None = None
    slots: Int[Tensor, " R"] | None = None


@dataclass(frozen=True)
class ForwardPlan:
    """What one step is fed.

    Attributes:
        feeds: calls of the model; a row that is in two of them counts in the later.
        counts: positions each row is fed, known on the host.
        refreshed: slots that are recomputed whole for a cache, in a call of their own.
        fed: positions that are recomputed; None: every one that can be. ``[B, W]``
        eligible, wanted: what may be committed and proposed for after the cache has had its say; None: all of it.
            ``[B, W]``
    """

    feeds: tuple[Feed, ...]
    counts: Sequence[int]
    refreshed: frozenset[int] = frozenset()
    fed: Bool[Tensor, "B W"] | None = None
    eligible: Bool[Tensor, "B W"] | None = None
    wanted: Bool[Tensor, "B W"] | None = None


def sees(
    queries: Int[Tensor, "R T"], keys: Int[Tensor, " S"], attention_block: int, valid: Bool[Tensor, "R S"] | None
) -> Bool[Tensor, "R T S"]:
    """Block-causal attention: a position sees its own attention block and those before it (counted from position 0)."""
    mask = (keys // attention_block)[None, None, :] <= (queries // attention_block)[:, :, None]
    return mask if valid is None else mask & valid[:, None, :]
