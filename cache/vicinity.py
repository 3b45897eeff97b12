"""Vicinity refresh (dInfer, arXiv 2510.08666)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.settings import at_least, every_steps
from dlm.engine.canvas import Canvas
from dlm.engine.row import Row
from dlm.engine.step import State, StepView


class Iterations(NamedTuple):
    """Where the published loop stands. In one iteration it refreshes and then feeds the window, each a forward; in
    the others it feeds the window.

    Attributes:
        forwards: those of the row, the ones included that the loop makes for a block that is full. ``[B]``
        noted: number of the block for which it last asked whether to refresh, 0 before. ``[B]``
        stored: whether it has refreshed. ``[B]``
        window_due: whether it has just refreshed, in a block that is still open. ``[B]``
    """

    forwards: Int[Tensor, " B"]
    noted: Int[Tensor, " B"]
    stored: Bool[Tensor, " B"]
    window_due: Bool[Tensor, " B"]


@dataclass(frozen=True)
class Vicinity(Policy):
    """The dual cache with a window: the block and its neighbourhood are recomputed at every step.

    Attributes:
        before, after: positions of the neighbourhood on either side; None: all of them.
        warmup: first steps of a row that recompute everything.
        every: steps of a block after which everything is recomputed again; None: not before the next block.
        compat: ``reference``: the clock of the published loop. What warms up stores nothing, so that ``warmup`` steps
            are followed by one more; ``every`` counts the forwards of the row, and the first block has no refresh.

    Raises:
        SettingsError: a negative width, ``every`` below 1, an unknown compat.
    """

    before: int | None = 16
    after: int | None = 16
    warmup: int = 4
    every: int | None = None
    compat: Literal["clean", "reference"] = "clean"

    uniform_feed = True

    @property
    def schedule_known(self) -> bool:  # type: ignore[override]
        return self.compat == "clean"

    @property
    def refreshes_with_blocks(self) -> bool:  # type: ignore[override]
        return self.every is None

    def __post_init__(self) -> None:
        at_least(0, before=self.before, after=self.after, warmup=self.warmup)
        at_least(1, every=self.every)

    def refreshes(self, row: Row) -> bool:
        if self.compat == "reference":
            return row.block_steps == 0 or bool(row.cache.get("refresh_due", True))
        return row.steps < self.warmup or row.block_steps == 0 or every_steps(row.block_steps, self.every)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live & window(context, self.before, self.after)

    def init(self, canvas: Canvas) -> State:
        if self.compat == "clean":
            return None
        zero, no = torch.zeros_like(canvas.start), torch.zeros_like(canvas.start, dtype=torch.bool)
        return Iterations(zero, zero, no, no)

    def remember(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: State
    ) -> tuple[State, dict[str, Int[Tensor, " B"]]]:
        if self.compat == "clean":
            return state, {}
        blocks = view.blocks
        state = state._replace(window_due=state.window_due & (blocks.block_step > 0))
        asks, refreshes = self._decides(state, blocks.block_number)
        full = ~(view.canvas.masked & blocks.block).any(dim=1)
        after = Iterations(
            forwards=state.forwards + 1 + (refreshes & full),
            noted=torch.where(asks & state.stored, blocks.block_number, state.noted),
            stored=state.stored | refreshes,
            window_due=refreshes & ~full,
        )
        _, again = self._decides(after, blocks.block_number)
        return after, {"refresh_due": again | (after.forwards < self.warmup)}

    def _decides(self, state: Iterations, block: Int[Tensor, " B"]) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
        """Whether the loop asks its cache before the next forward, and whether that refreshes."""
        asks = (state.forwards >= self.warmup) & ~state.window_due
        due = state.noted != block
        if self.every is not None:
            due = due | (state.forwards % self.every == 0)
        return asks, asks & (~state.stored | (due & (block > 1)))


def window(context: PolicyContext, left: int | None, right: int | None) -> Bool[Tensor, "B W"]:
    """The block, ``left`` positions before and ``right`` behind it; None: all there are."""
    start = context.block_start * 0 if left is None else context.block_start - left
    end = context.block_end if right is None else context.block_end + right
    inside = context.span(start, end)
    return inside if right is not None else inside | (context.columns >= context.block_end)
