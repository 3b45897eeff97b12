"""What is known at a step: the state of the open blocks, and the one argument every sampler part receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, versions
from dlm.engine.noise import Purpose, uniform
from dlm.engine.proposal import Proposal

# What a part remembers between steps: None, a tensor, or a tuple of such, the row axis first.
State = Any


@dataclass(frozen=True)
class BlockState:
    """Where each row and its open block stand. Row-local: a row that joined late counts from its own beginning.

    Attributes:
        step: steps the row has taken before this one; with drafts more than forwards. ``[B]``
        block_start, block_end: the active block of the row, absolute positions. ``[B]``
        block_step: steps since the block was opened. ``[B]``
        block_masks: masked positions the block had when it was opened, and those that it has reached since. ``[B]``
        block: its open positions. ``[B, W]``
        block_number: how many blocks the row has opened, the active one included. ``[B]``
        opened_end: the end the block was opened with; a stop rule may have cut it since. ``[B]``
    """

    step: Int[Tensor, " B"]
    block_start: Int[Tensor, " B"]
    block_end: Int[Tensor, " B"]
    block_step: Int[Tensor, " B"]
    block_masks: Int[Tensor, " B"]
    block: Bool[Tensor, "B W"]
    block_number: Int[Tensor, " B"]
    opened_end: Int[Tensor, " B"]

    @classmethod
    def fresh(cls, canvas: Canvas) -> BlockState:
        """Rows that have not opened a block yet."""
        zero, start = torch.zeros_like(canvas.start), canvas.start
        return cls(zero, start, start, zero, zero, torch.zeros_like(canvas.writable), zero, start)

    def renewed(self, new: BlockState, where: Bool[Tensor, " B"]) -> BlockState:
        """``new`` in the rows ``where``."""
        pairs = ((getattr(self, field.name), getattr(new, field.name)) for field in fields(self))
        return BlockState(*(renew_state(old, fresh, where) for old, fresh in pairs))

    def of(self, rows: Int[Tensor, " R"]) -> BlockState:
        """The state of some rows, each as often as it is named."""
        return BlockState(*(versions(getattr(self, field.name), rows) for field in fields(self)))

    def later(self, steps: Int[Tensor, " B"] | int) -> BlockState:
        """The state so many steps later in the same block."""
        # Both counters in one kernel.
        step, block_step = (
            torch._foreach_add([self.step, self.block_step], steps)
            if isinstance(steps, int)
            else torch._foreach_add([self.step, self.block_step], [steps, steps])
        )
        return replace(self, step=step, block_step=block_step)

    def opened(self, rows: Bool[Tensor, " B"], block: Bool[Tensor, "B W"], masks: Int[Tensor, " B"]) -> BlockState:
        """The state after ``rows`` have opened ``block`` with so many masked positions."""
        return replace(
            self,
            block_step=self.block_step.masked_fill(rows, 0),
            block_masks=torch.where(rows, masks, self.block_masks),
            block=block,
            block_number=self.block_number + rows,
            opened_end=torch.where(rows, self.block_end, self.opened_end),
        )


@dataclass(frozen=True)
class LogitRows:
    """Which row and position each line of a chunk of logits belongs to.

    Attributes:
        canvas, blocks: the canvas and the block state the rows are of.
        row, position: canvas row and absolute position of each line. ``[R]``
        eligible: whether the position may be committed at this step; False where a part only looks. ``[R]``
    """

    canvas: Canvas
    blocks: BlockState
    row: Int[Tensor, " R"]
    position: Int[Tensor, " R"]
    eligible: Bool[Tensor, " R"]

    def part(self, chunk: slice) -> LogitRows:
        """The lines of a chunk."""
        return LogitRows(self.canvas, self.blocks, self.row[chunk], self.position[chunk], self.eligible[chunk])


@dataclass(frozen=True)
class RowSize:
    """The largest sizes of the rows of a batch, known on the host.

    Attributes:
        region: generated positions.
        block: positions of a block.
        row: positions in all.
    """

    region: int
    block: int
    row: int


@dataclass(frozen=True)
class StepView:
    """Everything known at a step, read-only. ``N`` positions per row were proposed for, ascending: those that may be
    committed, and those some part wanted to look at.

    Attributes:
        canvas: the tokens before this step's commits.
        blocks: where each row and its block stand.
        positions: the proposed positions; unused entries point at the canvas's scratch column. ``[B, N]``
        eligible: masked, inside the active block, and a real entry. ``[B, N]``
        proposal: token, probability and whatever other statistics were asked for. Each ``[B, N]``
        scores: what the score part made of it, higher is surer; -inf where not eligible. ``[B, N]``
        budget: how many positions the budget part wants committed; None when the selector decides. ``[B]``
        shadow: probability of the token at a position of the active block as if it were masked, NaN elsewhere; None
            unless a part needs ``"shadow"``. ``[B, W]``
        attention: attention of the last layers, mean over heads and layers, from query to key; None unless a part
            needs ``"attention"``. ``[B, T, T]``, T the fed positions
        accepted: which of the proposed positions the selector accepted for their own sake, see
            :meth:`dlm.engine.interfaces.Selector.accepted`; None unless a part asks. ``[B, N]``
        most: no row has more eligible positions; a plain number, known without asking the device.
    """

    canvas: Canvas
    blocks: BlockState
    positions: Int[Tensor, "B N"]
    eligible: Bool[Tensor, "B N"]
    proposal: Proposal
    scores: Float[Tensor, "B N"] | None = None
    budget: Int[Tensor, " B"] | None = None
    shadow: Float[Tensor, "B W"] | None = None
    attention: Float[Tensor, "B T T"] | None = None
    accepted: Bool[Tensor, "B N"] | None = None
    most: int = 0

    def beside(self, others: Sequence[StepView]) -> StepView:
        """This view with the proposals of ``others``, of the same rows, to the right of its own."""
        views = [self, *others]
        scores = [view.scores for view in views if view.scores is not None]
        return replace(
            self,
            positions=torch.cat([view.positions for view in views], dim=1),
            eligible=torch.cat([view.eligible for view in views], dim=1),
            proposal=Proposal.cat([view.proposal for view in views], dim=1),
            scores=torch.cat(scores, dim=1) if len(scores) == len(views) else None,
            accepted=None,
        )

    @cached_property
    def real(self) -> Bool[Tensor, "B N"]:
        """Entries of ``positions`` that are no filler."""
        return self.positions != self.canvas.scratch

    def here(self, where: Bool[Tensor, "B W"]) -> Bool[Tensor, "B N"]:
        """Which of the proposed positions are True in a mask over the canvas."""
        return where.gather(1, self.positions) & self.real

    def on_canvas(self, values: Tensor, fill: float | int = 0.0) -> Tensor:
        """Values of the proposed positions, laid out over the canvas. ``[B, N]`` to ``[B, W]``"""
        width = self.canvas.tokens.shape[1]
        laid = values.new_full((values.shape[0], width), fill).scatter_(1, self.positions, values)
        laid[:, self.canvas.scratch].fill_(fill)
        return laid

    def marks(self, entries: Bool[Tensor, "B N"]) -> Bool[Tensor, "B W"]:
        """The canvas positions of these entries, of which no filler may be one."""
        return torch.zeros_like(self.canvas.writable).scatter_(1, self.positions, entries)

    def rank(self, scores: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """:func:`rank` of scores of the proposed positions."""
        return rank(scores, self.canvas.columns)

    def uniform(self, purpose: Purpose) -> Float[Tensor, "B N"]:
        """One uniform in (0, 1) per position from the row's own stream."""
        return uniform(self.canvas.key, self.blocks.step, purpose, self.positions)


def rank(scores: Float[Tensor, "B N"], columns: Int[Tensor, " W"] | None = None) -> Int[Tensor, "B N"]:
    """Place of each entry in descending order of score, 0 is best; equal scores: the lower position first. ``columns``:
    0, 1, 2, ..., where they are at hand."""
    order, count = scores.sort(dim=1, descending=True, stable=True).indices, scores.shape[1]
    if columns is None or columns.shape[0] < count:
        columns = torch.arange(count, device=scores.device)
    return torch.empty_like(order).scatter_(1, order, columns[:count].expand_as(order))


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``function`` to every tensor of a part's memory."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    return _like(state, [map_state(function, x) for x in state])


def renew_state(old: State, new: State, fresh: Bool[Tensor, " B"]) -> State:
    """``new`` where ``fresh``, ``old`` elsewhere, row by row."""
    if old is None:
        return None
    if isinstance(old, Tensor):
        return torch.where(fresh.view(-1, *[1] * (old.dim() - 1)), new, old)
    return _like(old, [renew_state(a, b, fresh) for a, b in zip(old, new, strict=True)])


def _like(state: Any, values: list[State]) -> State:
    """A tuple, or a named one of the same kind."""
    return type(state)(*values) if hasattr(state, "_fields") else tuple(values)
