"""Several versions of every row in one forward: look-ahead branches, drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.plan import Feed
from dlm.engine.step import BlockState


@dataclass(frozen=True)
class Branches:
    """Versions of the rows of a batch; those of one row follow each other, the row as it stands first.

    A version may *follow* another one: it is a state that comes one step after. Then it sees what the other computed,
    as it would one forward later.

    Attributes:
        canvas, blocks: as of the batch, a version per row.
        wanted: positions to propose for. ``[V, W]``
        ahead: as in :class:`dlm.engine.plan.CacheQuery`. ``[V, W]``
        owner: the slot each is a version of. ``[V]``
        parent: the version each follows; itself where it follows none. ``[V]``
        first: the row as it stands. ``[B]``
        levels: the versions that follow another, those that come first in front.
        counts: how many there are of each row.
    """

    canvas: Canvas
    blocks: BlockState
    wanted: Bool[Tensor, "V W"]
    ahead: Bool[Tensor, "V W"] | None
    owner: Int[Tensor, " V"]
    parent: Int[Tensor, " V"]
    first: Int[Tensor, " B"]
    levels: tuple[Int[Tensor, " _"], ...]  # of different lengths
    counts: Sequence[int]

    @classmethod
    def alike(
        cls, canvas: Canvas, tokens: Int[Tensor, "V W"], blocks: BlockState, wanted: Bool[Tensor, "B W"], each: int
    ) -> Branches:
        """``each`` versions of every row with these tokens; none of them follows another."""
        rows = canvas.tokens.shape[0]
        owner = torch.arange(rows, device=tokens.device).repeat_interleave(each)
        many, itself = canvas_of(canvas, tokens, owner), torch.arange(rows * each, device=tokens.device)
        return cls(
            many,
            blocks_of(blocks, owner),
            wanted[owner],
            None,
            owner,
            itself,
            itself[::each],
            (),
            [each] * rows,
        )


class BranchPlan(NamedTuple):
    """What a forward of several versions is fed.

    Attributes:
        feeds: calls of the model; ``slots`` are versions.
        counts: positions that the versions of each row take together, known on the host.
        fed: positions that are recomputed; None: every one that can be. ``[V, W]``
        slots: the rows whose versions are in the first call, all of them; another call has rows that are recomputed
            whole.
    """

    feeds: tuple[Feed, ...]
    counts: Sequence[int]
    fed: Bool[Tensor, "V W"] | None
    slots: Sequence[int]


def canvas_of(canvas: Canvas, tokens: Int[Tensor, "R W"], owner: Int[Tensor, " R"]) -> Canvas:
    """A canvas whose rows are versions, with these tokens, of the rows ``owner``."""
    return replace(
        canvas,
        tokens=tokens,
        writable=canvas.writable[owner],
        commit_step=canvas.commit_step[owner],
        commit_confidence=canvas.commit_confidence[owner],
        start=canvas.start[owner],
        end=canvas.end[owner],
        asked=canvas.asked[owner],
        cut_away=canvas.cut_away[owner],
        key=canvas.key[owner],
    )


def blocks_of(blocks: BlockState, owner: Int[Tensor, " R"]) -> BlockState:
    """The clocks of the rows ``owner``."""
    return BlockState(*(getattr(blocks, name)[owner] for name in BlockState.__annotations__))
