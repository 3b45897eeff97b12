"""The faults of the cached decoders for Dream, whose logits are shifted by one; see :mod:`scripts.goldens.faults`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.run import Run
from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule, Budget, LogitTransform, Selector, StopRule
from dlm.engine.plan import CacheQuery, ForwardPlan, Layout
from dlm.engine.row import Row
from dlm.engine.step import BlockState, LogitRows, State, StepView
from scripts.goldens.faults import Unstamped

Shift = Literal["un", "un_right", "right"]


@dataclass(frozen=True)
class Unshifted(Policy):
    """Fast-dLLM's block caches for Dream: the row before the block, which answers for its first position, is not fed.

    Attributes:
        dual: whether only the block is fed.
    """

    dual: bool

    def refreshes(self, row: Row) -> bool:
        return row.block_steps == 0

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        end = context.block_end if self.dual else context.query.canvas.end[:, None]
        return (context.columns >= context.block_start) & (context.columns < end)


@dataclass(frozen=True)
class FirstForced(Selector):
    """The first step of a block commits its first position and nothing else, however unsure it is.

    Attributes:
        after: the selector of the other steps.
    """

    after: Any

    @property
    def uses_budget(self) -> bool:
        return bool(self.after.uses_budget)

    @property
    def idle_steps(self) -> int:
        return int(self.after.idle_steps)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        first = view.positions == view.blocks.block_start[:, None]
        chosen = self.after.step(view, state)[0]
        return torch.where(view.blocks.block_step[:, None] == 0, first, chosen), state


@dataclass(frozen=True)
class BlockGrid(Budget):
    """Dream's time grid anew in every block, truncated; see :class:`samplers.TimeGrid`.

    Attributes:
        steps: steps of a block.
        eps: the end of the grid.
    """

    steps: int
    eps: float = 1e-3

    @property
    def idle_steps(self) -> int:
        return 64 * self.steps

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        times = torch.linspace(1, self.eps, self.steps + 1)
        step, masks = view.blocks.block_step, view.eligible.sum(dim=1)
        now = step.clamp(max=self.steps - 1)
        share = 1 - times[now + 1] / times[now]
        return torch.where(step < self.steps - 1, (masks * share).long(), masks), state


@dataclass(frozen=True)
class Heads(BlockSchedule, StopRule):
    """Only the first position of each block is filled, and the masks behind it stay: the loop leaves a block before it
    has used what its forward showed. Blocks and stop rule in one.

    Attributes:
        length: length of a block.
    """

    length: int

    def longest(self, region: int) -> int:
        return 1

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        start = canvas.start + self.length * (canvas.writable & ~canvas.masked).sum(dim=1)
        return start, start + 1, state

    def after_block(self, canvas: Canvas, blocks: BlockState, closed: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The last block ends the row, masks and all."""
        last = closed & (blocks.block_start + self.length >= canvas.end)
        return torch.where(last, canvas.mask_id, -1)


@dataclass
class Notes:
    """What a cache lets the parts of its sampler know: the positions whose logits the forward did not give."""

    unseen: Tensor | None = None


@dataclass(frozen=True)
class DreamDKV(Policy):
    """dKV-Cache's decoded cache for Dream: which positions are kept is a function of the canvas one step ago.

    ``un`` keeps p as soon as p + 1 is known, masked or not; ``un_right`` when both are; ``right`` when p is, although
    the masked position behind it then gets no logits. Kept keys are not looked at again before the next refresh.

    Attributes:
        shift: which function.
        interval: steps between refreshes.
        notes: told what was not fed.
    """

    shift: Shift
    interval: int
    notes: Notes = field(default_factory=Notes)
    block_always_fresh = False

    def open(self, layout: Layout) -> Run:
        return _DreamDKVRun(self, layout)

    def refreshes(self, row: Row) -> bool:
        return row.steps % self.interval == 0

    def init(self, canvas: Canvas) -> tuple[Bool[Tensor, "B W"], Bool[Tensor, "B W"]]:
        # Before the first commit all three look at the next position; nothing is kept before the first forward.
        kept = self._kept(canvas, "un")
        kept[torch.arange(kept.shape[0]), canvas.end - 1] = False
        return torch.zeros_like(kept), kept

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live & ~state[0]

    def remember(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[State, dict[str, Tensor]]:
        return (state[1], self._kept(view.canvas, self.shift)), {}

    def _kept(self, canvas: Canvas, shift: Shift) -> Bool[Tensor, "B W"]:
        known = canvas.tokens != canvas.mask_id
        if shift == "right":
            return known
        last = canvas.end - 1
        next_ = known.roll(-1, dims=1)
        rows = torch.arange(known.shape[0])
        next_[rows, last] = known[:, 0]
        if shift == "un":
            return next_
        both = known & next_
        both[rows, last] = both[rows, last - 1]
        return both


class _DreamDKVRun(Unstamped):
    """Feeds what :class:`DreamDKV` says and nothing more: rows that answer for masked positions are not added."""

    policy: DreamDKV

    def plan(self, query: CacheQuery) -> ForwardPlan:
        plan = super().plan(replace(query, wanted=torch.zeros_like(query.wanted)))
        assert plan.fed is not None
        self.policy.notes.unseen = ~plan.fed.roll(1, dims=1)
        return replace(plan, eligible=None, wanted=None)


@dataclass(frozen=True)
class NoLogits(LogitTransform):
    """Where the forward gave no logits the reference has minus infinity for all of them, and then takes id 0."""

    notes: Notes

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: None) -> tuple[Float[Tensor, "R V"], None]:
        assert self.notes.unseen is not None
        absent = self.notes.unseen[at.row, at.position]
        instead = torch.zeros_like(logits[:1])
        instead[0, 0] = 1e3
        return torch.where(absent[:, None], instead, logits), state


@dataclass(frozen=True)
class NaNFirst(Selector):
    """The selection of a reference whose scores are NaN where the forward gave no logits: torch.topk takes NaN for the
    largest number."""

    notes: Notes

    uses_budget = True
    idle_steps = 1

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        assert view.budget is not None
        assert self.notes.unseen is not None
        laid = view.on_canvas(view.scores.masked_fill(~view.eligible, -torch.inf), -torch.inf)
        laid = laid.masked_fill(self.notes.unseen & view.canvas.masked, torch.nan)
        chosen = torch.zeros_like(laid, dtype=torch.bool)
        for row, number in enumerate(view.budget.tolist()):
            end = int(view.canvas.end[row])
            chosen[row, torch.topk(laid[row : row + 1, :end], number).indices[0]] = True
        return view.here(chosen), state
