"""What a forward is fed: what a cache is asked, its answer, and several branches of a row in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.row import Row
from dlm.engine.step import BlockState, State
from dlm.models.backbone import Memory


@dataclass(frozen=True)
class Layout:
    """What a cache must know about a run before its first step.

    Attributes:
        rows: most rows of the batch.
        columns: width of the canvas, its scratch column included.
        shift: as in :class:`dlm.models.backbone.ModelDescription`.
        attention_block: likewise.
        streams: 2 when a second, unguided stream of every row is fed (classifier-free guidance), else 1.
        static: whether the number of fed positions is rounded up, so that compiled code sees few shapes.
        device: where the canvas is.
        fixed: whether steps have fixed shapes (:mod:`dlm.engine.static`): attention is over all columns.
        layers: how many the model has, where all are on one device; 0: they are not, or that is not known.
    """

    rows: int
    columns: int
    shift: int
    attention_block: int
    streams: int
    static: bool
    device: torch.device
    fixed: bool = False
    layers: int = 0


def layers_on(model: Any, device: torch.device) -> int:
    """See :attr:`Layout.layers`."""
    there = isinstance(model, torch.nn.Module) and all(weight.device == device for weight in model.parameters())
    return int(getattr(getattr(model, "arch", None), "layers", 0)) if there else 0


@dataclass(frozen=True)
class CacheQuery:
    """What is known before a forward.

    Attributes:
        canvas, blocks: tokens and counters; blocks are open.
        eligible: positions that may be committed. ``[B, W]``
        wanted: positions to propose for: the eligible ones and those a part looks at, except an early exit.
            ``[B, W]``
        rows: the host's account of each slot.
        exiting: positions an early exit looks at beside those; a forward that cannot end a row need not show them.
            None: there is no early exit, or it looks at nothing. ``[B, W]``
        upcoming: positions this step will commit, where the sampler can tell before the forward; None where it cannot
            or nobody asks. ``[B, W]``
        most_upcoming: no row has more of them; known on the host.
        ahead: positions behind the block that drafts would like to see proposals for; they may not change what is
            computed for the others. None: there are none. ``[B, W]``
        visible: positions before the end that a sampler has the row fed to; None: all of the row. ``[B, W]``
    """

    canvas: Canvas
    blocks: BlockState
    eligible: Bool[Tensor, "B W"]
    wanted: Bool[Tensor, "B W"]
    rows: Sequence[Row]
    exiting: Bool[Tensor, "B W"] | None = None
    upcoming: Bool[Tensor, "B W"] | None = None
    ahead: Bool[Tensor, "B W"] | None = None
    most_upcoming: int = 0
    visible: Bool[Tensor, "B W"] | None = None


class PackedBranches(NamedTuple):
    """How the branches of rows lie one behind the other.

    Attributes:
        grid: the branches of each row, the first one where a row has fewer. ``[B, E]``
        there: which of them are meant. ``[B, E]``
        back: the place of each branch in the flattened grid. ``[R]``
        owner: its row. ``[R]``
        itself: whether it is the first one of its row. ``[R]``
    """

    grid: Int[Tensor, "B E"]
    there: Bool[Tensor, "B E"]
    back: Int[Tensor, " R"]
    owner: Int[Tensor, " R"]
    itself: Bool[Tensor, " R"]

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(counts: tuple[int, ...], device: torch.device, each: int | None = None) -> PackedBranches:
        """Of rows with so many branches each, made once; ``each``: places for those of a row, None: as many as the most
        have."""
        each, first, grid, there, back = each or max(counts), 0, [], [], []
        for row, count in enumerate(counts):
            grid.append([first + place if place < count else first for place in range(each)])
            there.append([place < count for place in range(each)])
            back += [row * each + place for place in range(count)]
            first += count
        owner, itself = [place // each for place in back], [place % each == 0 for place in back]
        return PackedBranches(*(torch.tensor(part, device=device) for part in (grid, there, back, owner, itself)))

    @property
    def even(self) -> bool:
        """Whether all rows have the same number of them."""
        return self.back.shape[0] == self.there.numel()

    def by_row(self, values: Shaped[Tensor, "R ..."]) -> Shaped[Tensor, "B E ..."]:
        """What belongs to the branches, side by side for each row; of a branch that is not there False, or what belongs
        to the first one."""
        if self.even:
            return values.view(*self.grid.shape, *values.shape[1:])
        laid = values[self.grid]
        if values.dtype != torch.bool:
            return laid
        return laid & self.there.view(*self.there.shape, *[1] * (values.dim() - 1))

    def of_branches(self, values: Shaped[Tensor, "B E ..."]) -> Shaped[Tensor, "R ..."]:
        """And back."""
        laid = values.flatten(0, 1)
        return laid if self.even else laid[self.back]

    def apart(self, feed: Feed) -> Bool[Tensor, "B Q K"]:
        """The mask under which every branch of a feed sees itself alone: nothing is stored."""
        (rows, length), (own, each) = feed.tokens.shape, self.grid.shape
        valid = feed.valid if feed.valid is not None else torch.ones_like(feed.tokens, dtype=torch.bool)
        within = valid if valid.dim() == 3 else valid[:, None].expand(rows, length, length)
        mask = torch.zeros(own, each, length, each, length, dtype=torch.bool, device=within.device)
        for place in range(each):
            mask[:, place, :, place] = within[self.grid[:, place]]
        return mask.view(own, each * length, each * length)


@runtime_checkable
class FeedMemory(Memory, Protocol):
    """What one forward reads and writes beside the positions it is fed, as the engine lays feeds out."""

    def extended(self, extra: int) -> FeedMemory:
        """For a feed with ``extra`` more entries behind: they are seen where the mask says so, and not kept."""
        ...

    def doubled(self) -> FeedMemory:
        """For a feed that has every row twice, the second time in its own stream."""
        ...

    def along_sequence(
        self, order: PackedBranches, valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"] | None
    ) -> tuple[FeedMemory, Bool[Tensor, "B Q K"]]:
        """For branches that were to be rows of a feed and now lie one behind the other; and the mask that keeps them
        apart, over what is stored and what is fed."""
        ...


@dataclass(frozen=True)
class Feed:
    """One call of the model.

    Attributes:
        tokens: the fed tokens. ``[R, T]``
        positions: their absolute positions, ascending; unused entries are at the canvas's scratch column. None means
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
    memory: FeedMemory | None = None
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
        most: the most positions that are ``wanted`` of a row, where the cache looks at more than the sampler; else 0.
    """

    feeds: tuple[Feed, ...]
    counts: Sequence[int]
    refreshed: frozenset[int] = frozenset()
    fed: Bool[Tensor, "B W"] | None = None
    eligible: Bool[Tensor, "B W"] | None = None
    wanted: Bool[Tensor, "B W"] | None = None
    most: int = 0


class FixedFeeds:
    """What a :class:`dlm.engine.interfaces.CacheRun` whose feeds can have fixed shapes offers beside its duties."""

    def told(self, blocks: BlockState, rows: Sequence[Row]) -> int | None:
        """How many entries the next step feeds of each row, should its blocks be these; None: that is not known, or
        some row is recomputed whole."""
        raise NotImplementedError

    def counts(self, rows: Sequence[Row]) -> list[int]:
        """How many positions that step feeds of each row."""
        raise NotImplementedError

    def tensors(self) -> State:
        """Every tensor that outlives a step and is not written in place."""
        raise NotImplementedError

    def put(self, tensors: State) -> None:
        """Others in their places."""
        raise NotImplementedError


@dataclass(frozen=True)
class Branches:
    """Versions of the rows of a batch; those of one row lie together, the row as it stands first.

    A branch may *follow* another one: it is a state that comes one step after. Then it sees what the other computed,
    as it would one forward later.

    Attributes:
        canvas, blocks: as of the batch, a row for each branch.
        wanted: positions to propose for. ``[V, W]``
        ahead: as in :class:`CacheQuery`. ``[V, W]``
        owner: the slot each is a version of. ``[V]``
        parent: the branch each follows; itself where it follows none. ``[V]``
        first: the row as it stands. ``[B]``
        depths: how many branches each follows one after the other, known on the host; 0: it is made of the row itself.
        counts: how many there are of each row.
        remasks: whether some take tokens back that the row has.
    """

    canvas: Canvas
    blocks: BlockState
    wanted: Bool[Tensor, "V W"]
    ahead: Bool[Tensor, "V W"] | None
    owner: Int[Tensor, " V"]
    parent: Int[Tensor, " V"]
    first: Int[Tensor, " B"]
    depths: Sequence[int]
    counts: Sequence[int]
    remasks: bool = False


class BranchPlan(NamedTuple):
    """What a forward of several branches is fed.

    Attributes:
        feeds: calls of the model; ``slots`` are branches.
        counts: positions that the branches of each row take together, known on the host.
        fed: positions that are recomputed; None: every one that can be. ``[V, W]``
        slots: the rows whose branches are in the first call, all of them; another call has rows that are recomputed
            whole.
        any_way: whether a branch is answered by what it holds alone, whichever way a row came to it.
    """

    feeds: tuple[Feed, ...]
    counts: Sequence[int]
    fed: Bool[Tensor, "V W"] | None
    slots: Sequence[int]
    any_way: bool
