"""A sampler at work: what its parts say at a step, row by row, on the device, and nothing that the host must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.answers import Answers
from dlm.engine.canvas import Canvas, Job
from dlm.engine.interfaces import BlockSchedule, Growth, Part, Selector, StopRule, offers
from dlm.engine.proposal import Proposal
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.step import BlockState, RowSize, State, StepView, map_state, renew_state
from dlm.errors import SettingsError

# The fields of a sampler that hold a part, and those that hold several.
ONE_PART = ("score", "budget", "selector", "blocks", "exit", "stop", "reviser", "probe")
SEVERAL_PARTS = ("modifiers", "transforms")


class PreviousForward(NamedTuple):
    """What the divergence from one forward to the next needs of the first.

    Attributes:
        known: positions whose hidden states were computed. ``[B, W]``
        hidden: hidden states at their columns, one set, or two with guidance. ``[B, W, D]`` each
    """

    known: Bool[Tensor, "B W"]
    hidden: tuple[Float[Tensor, "B W D"], ...]


@dataclass
class SamplerState:
    """What the parts of a sampler remember of the rows of a batch, every tensor with the row axis first.

    Attributes:
        score, budget, selector, blocks, exit, stop, reviser, probe: of the part in that role.
        modifiers, transforms: of each of them.
        previous: the forward before, where a part compares with it.
        stepper: of what takes the steps (the drafts at hand).
    """

    score: State = None
    modifiers: tuple[State, ...] = ()
    transforms: tuple[State, ...] = ()
    budget: State = None
    selector: State = None
    blocks: State = None
    exit: State = None
    stop: State = None
    reviser: State = None
    probe: State = None
    previous: PreviousForward | None = None
    stepper: State = None

    @classmethod
    def of(cls, sampler: Sampler, canvas: Canvas) -> SamplerState:
        """The memories of fresh rows."""
        state, answers, rows = cls(), Answers(), canvas.tokens.shape[0]
        for role in ONE_PART:
            part = getattr(sampler, role)
            setattr(state, role, None if part is None else answers.memory(part.init, (canvas,), rows))
        for role in SEVERAL_PARTS:
            memories = (answers.memory(part.init, (canvas,), rows) for part in getattr(sampler, role))
            setattr(state, role, tuple(memories))
        return state

    def copy(self) -> SamplerState:
        """Another one with the same memories; steps put new ones in their places and never write to a tensor."""
        return replace(self)

    def keep(self, rows: Int[Tensor, " R"]) -> SamplerState:
        """Row compaction."""
        memories = (getattr(self, field.name) for field in fields(self))
        return SamplerState(*(map_state(lambda x: x.index_select(0, rows), memory) for memory in memories))

    def adopt(self, new: SamplerState, where: Bool[Tensor, " B"]) -> None:
        """Take over what the parts of ``new`` remember of the rows ``where``."""
        for role in (*ONE_PART, *SEVERAL_PARTS):
            setattr(self, role, renew_state(getattr(self, role), getattr(new, role), where))


class SamplerRun:
    """The parts of a sampler, asked in their order. The loop asks at every step; drafts ask for steps that may come.

    Args:
        sampler: whose parts are asked.
        stores: whether a cache keeps keys, so that every position that is looked at costs.
        longest: most positions of a block.
        most_open: most open positions of a block; None: as many as it has.

    Attributes:
        hides, grows, shortens: whether a row may be fed only up to some position, grow, or be cut short.
        pace: how many positions every step commits, the best by score, as far as there are; None: that depends.
        looks: whether a part looks at positions that may not be committed.
        surplus: whether a row is done before its end: what lies behind only completes its last attention block.
        idle_steps: see :class:`dlm.engine.sampler.Sampler`.
    """

    def __init__(self, sampler: Sampler, stores: bool, longest: int, most_open: int | None = None) -> None:
        self.sampler, self.longest, self.answers = sampler, longest, Answers()
        self.most_open = longest if most_open is None else most_open
        stop, selector, blocks = sampler.stop, sampler.selector, sampler.blocks
        self._cuts_short = stop if stop is not None and offers(stop, StopRule.new_end) else None
        self._lookers = [part for part in sampler.parts.values() if offers(part, Part.positions_to_score)]
        if stores and self._cuts_short is not None:
            # What it looks at ahead of the block would have to be recomputed at every step.
            self._lookers = [part for part in self._lookers if part is not stop]
        self.shortens, self.looks = self._cuts_short is not None, bool(self._lookers)
        asked = self._cuts_short is not None and self._cuts_short.asks_accepted
        self._accepts = selector if asked and offers(selector, Selector.accepted) else None
        self.hides, self.grows = offers(selector, Selector.visible_end), sampler.grows
        self.idle_steps, self._rewrites = sampler.idle_steps, selector.rewrites
        counted = selector.uses_budget and (sampler.budget is None or sampler.budget.each is None)
        self._may_idle = not self.idle_steps and not (selector.always_commits and not counted)
        self.pace = sampler.budget.each if sampler.budget is not None and selector.best_first else None
        self.surplus = False
        self._holds = offers(selector, Selector.holds)
        self._narrows = offers(blocks, BlockSchedule.narrow)
        self._moves = offers(blocks, BlockSchedule.move)
        self._ahead: tuple[StepView, Bool[Tensor, "B W"], SamplerState] | None = None
        self._in_places = offers(blocks, BlockSchedule.open_positions)

    @classmethod
    def fitted(cls, sampler: Sampler, stores: bool, jobs: Sequence[Job], room: int = 0) -> SamplerRun:
        """For these rows, and others of up to ``room`` positions; each is asked about, since rows may differ in length.

        Raises:
            SettingsError: the sampler does not fit one of them.
        """
        own = {job.temperature is not None for job in jobs}
        if own == {True, False} or (True in own and not (sampler.proposer.mixes and sampler.proposer.temperature > 0)):
            raise SettingsError("temperatures of rows: all have one or none, and the sampler draws from all of softmax")
        regions = {job.end - job.start for job in jobs}
        widest = max(room, *regions)
        longest = sampler.blocks.longest(widest)
        for region in sorted(regions):
            sampler.blocks.longest(region if room else widest)  # a row with room behind it fits as it would alone
            for part in sampler.parts.values():
                part.check(region, min(longest, region))
        if sampler.grows and any(len(job.writable) < job.end - job.start for job in jobs):
            raise SettingsError(
                f"the blocks of {type(sampler.blocks).__name__} put masks into rows, which would move given tokens:"
                " infill and pinned tokens need blocks that do not grow"
            )
        run = cls(sampler, stores, longest, sampler.blocks.most_open(widest))
        run.surplus = sampler.keeps and any(job.surplus for job in jobs)
        return run

    def ready(self, rows: Sequence[Row]) -> bool:
        """Whether every row stands in a block that stays as it is."""
        return not self._moves and all(row.block_open for row in rows)

    def open_blocks(
        self, canvas: Canvas, blocks: BlockState, state: SamplerState
    ) -> tuple[BlockState, Bool[Tensor, " B"]]:
        """Open the next block of every row whose block is full, and move those of the others; and which rows have
        opened one."""
        schedule, masked, rows = self.sampler.blocks, canvas.masked, canvas.start.shape
        asked = self.answers
        opened = ~(masked & blocks.block).any(dim=1)
        held = self.held(state, rows)
        opened = opened if held is None else opened & ~held
        moved = None
        if self._moves:
            moved = asked.several(schedule.move, (canvas, blocks, state.blocks), ("int", "int"), rows)
        start, end, memory = asked.several(schedule.step, (canvas, state.blocks), ("int", "int"), rows)
        if moved is not None:
            last, until, memory = moved[0], moved[1], renew_state(moved[2], memory, opened)
        else:
            last, until = blocks.block_start, blocks.block_end
        state.blocks = memory
        start, end = torch.where(opened, start, last), torch.where(opened, end, until)
        block = canvas.inside(start, end)
        open_ = None
        if self._in_places:
            open_ = asked.one(schedule.open_positions, (canvas, start, end), "bool", block.shape)
        block = block if open_ is None else block & open_
        reached = (masked & block).sum(dim=1)
        if moved is not None:
            # Masks that a block has come to hold since it was opened are counted with those it had.
            more = (masked & block & ~blocks.block).sum(dim=1)
            reached = torch.where(opened, reached, blocks.block_masks + more)
        blocks = replace(blocks, block_start=start, block_end=end).opened(opened, block, reached)
        if moved is not None:
            blocks = replace(blocks, block_masks=reached, opened_end=end)
        return blocks, opened

    def wanted(
        self, canvas: Canvas, blocks: BlockState, eligible: Bool[Tensor, "B W"]
    ) -> tuple[Bool[Tensor, "B W"], Bool[Tensor, "B W"] | None]:
        """Positions to propose for: the eligible ones and those a part looks at; and those an early exit looks at."""
        exiting = None
        for part in self._lookers:
            seen = self.answers.one(part.positions_to_score, (canvas, blocks), "bool", canvas.tokens.shape)
            if part is self.sampler.exit:
                exiting = seen
            elif seen is not None:
                eligible = eligible | seen
        return eligible, exiting

    def most(self, rows: Sequence[Row], eligible: int) -> int:
        """The most positions a row proposes for, known on the host."""
        if not self._lookers:
            return eligible
        region = max(row.job.end - row.job.start for row in rows)
        size = RowSize(region, self.longest, max(row.job.end for row in rows))
        beyond = sum(max(0, part.most_positions_to_score(eligible, size) - eligible) for part in self._lookers)
        return min(eligible + beyond, size.row)

    def visible_end(self, canvas: Canvas, state: SamplerState) -> Int[Tensor, " B"] | None:
        """The end of what is fed of each row; None: its end."""
        if not self.hides:
            return None
        selector = self.sampler.selector
        end: Int[Tensor, " B"] | None = self.answers.one(
            selector.visible_end, (canvas, state.selector), "int", canvas.end.shape
        )
        return end

    def held(self, state: SamplerState, rows: torch.Size) -> Bool[Tensor, " B"] | None:
        """Rows whose block is held open by the selector; None: none ever is."""
        if not self._holds:
            return None
        held: Bool[Tensor, " B"] | None = self.answers.one(self.sampler.selector.holds, (state.selector,), "bool", rows)
        return held

    def narrow(self, view: StepView, opened: Bool[Tensor, " B"] | None, state: SamplerState) -> StepView:
        """Let the schedule settle the blocks it has just opened, now that the forward is known."""
        settled = None
        if opened is not None and self._narrows:
            settled = self.answers.several(
                self.sampler.blocks.narrow, (view, opened, state.blocks), ("int",), opened.shape
            )
        if opened is None or settled is None:
            return view
        canvas, blocks = view.canvas, view.blocks
        end, state.blocks = settled
        end = torch.where(opened, torch.minimum(end, blocks.block_end), blocks.block_end)
        block = canvas.inside(blocks.block_start, end)
        masks = torch.where(opened, (canvas.masked & block).sum(dim=1), blocks.block_masks)
        until = torch.where(opened, end, blocks.opened_end)
        blocks = replace(blocks, block_end=end, block=block, block_masks=masks, opened_end=until)
        return replace(view, blocks=blocks, eligible=view.eligible & view.here(block))

    def upcoming(
        self, canvas: Canvas, blocks: BlockState, eligible: Bool[Tensor, "B W"], count: int, state: SamplerState
    ) -> Bool[Tensor, "B W"]:
        """What a sampler that does not read the proposals will commit at this step."""
        self._ahead, positions, state = None, canvas.columns.expand_as(canvas.tokens), state.copy()
        unknown = Proposal(positions, canvas.number(0.0, torch.float32).expand_as(positions))
        view, chosen, _ = self.select(StepView(canvas, blocks, positions, eligible, unknown, most=count), state)
        # Another budget may depend on how many positions the cache leaves.
        self._ahead = (view, chosen, state) if self.pace is not None and self._accepts is None else None
        return chosen

    def _as_said(self, view: StepView, state: SamplerState) -> tuple[StepView, Bool[Tensor, "B N"]] | None:
        """The scores and the choice of which :meth:`upcoming` has told; None: it has not, or of another step."""
        if self._ahead is None or self._ahead[0].blocks is not view.blocks:
            return None
        told, chosen, after = self._ahead
        assert told.scores is not None
        state.score, state.modifiers, state.budget, state.selector = (
            after.score, after.modifiers, after.budget, after.selector
        )  # fmt: skip
        view = replace(view, scores=told.scores.gather(1, view.positions), budget=told.budget)
        return view, chosen.gather(1, view.positions) & view.eligible

    def select(
        self, view: StepView, state: SamplerState, forced: Bool[Tensor, "B N"] | None = None
    ) -> tuple[StepView, Bool[Tensor, "B N"], Bool[Tensor, " B"] | None]:
        """Scores, budget and choice, and the rows that would commit all they have. A row that may commit something
        but would not, commits its best position; ``forced`` ones are committed whatever the selector says."""
        sampler, asked, shape = self.sampler, self.answers, view.positions.shape
        said = None if forced is not None else self._as_said(view, state)
        view, chosen = self._chosen(view, state, forced) if said is None else said
        exiting = None
        if sampler.exit is not None:
            exiting, state.exit = asked.several(sampler.exit.step, (view, state.exit), ("bool",), shape[:1])
        return view, chosen, exiting

    def _chosen(
        self, view: StepView, state: SamplerState, forced: Bool[Tensor, "B N"] | None
    ) -> tuple[StepView, Bool[Tensor, "B N"]]:
        """Scores, budget and choice."""
        sampler, asked, shape = self.sampler, self.answers, view.positions.shape
        view = self._scored(view, state)
        if sampler.budget is not None:
            budget, state.budget = asked.several(sampler.budget.step, (view, state.budget), ("int",), shape[:1])
            view = replace(view, budget=budget)
        if self._accepts is not None:
            view = replace(view, accepted=asked.one(self._accepts.accepted, (view,), "bool", shape))
        chosen, state.selector = asked.several(sampler.selector.step, (view, state.selector), ("bool",), shape)
        chosen = chosen & self._allowed(view)
        if forced is not None:
            chosen = chosen | forced
        if self._may_idle:
            chosen = self._never_idle(view, chosen, self._rewrites or forced is not None)
        return view, chosen

    def _never_idle(self, view: StepView, chosen: Bool[Tensor, "B N"], beyond: bool) -> Bool[Tensor, "B N"]:
        """What is chosen, and in a row without any its best position. ``beyond``: others than eligible ones may be."""
        assert view.scores is not None
        # What is chosen is better than any score: then the best is one of those, and nothing changes.
        first = torch.where(chosen, view.canvas.number(torch.inf, view.scores.dtype), view.scores)
        best = first.argmax(dim=1, keepdim=True)
        may_be = view.eligible | chosen if beyond else view.eligible
        return chosen.scatter_(1, best, True) & may_be

    def _eligible(self, view: StepView, scores: Float[Tensor, "B N"]) -> StepView:
        """The view with scores, -inf where nothing may be committed."""
        return replace(view, scores=torch.where(view.eligible, scores, view.canvas.number(-torch.inf, scores.dtype)))

    def _scored(self, view: StepView, state: SamplerState) -> StepView:
        """The view with scores, -inf where nothing may be committed."""
        sampler, asked, shape = self.sampler, self.answers, view.positions.shape
        scores, state.score = asked.several(sampler.score.step, (view, state.score), ("float",), shape)
        view = self._eligible(view, scores)
        memories = []
        for modifier, memory in zip(sampler.modifiers, state.modifiers, strict=True):
            scores, memory = asked.several(modifier.step, (view, memory), ("float",), shape)
            view = self._eligible(view, scores)
            memories.append(memory)
        state.modifiers = tuple(memories)
        return view

    def _allowed(self, view: StepView) -> Bool[Tensor, "B N"]:
        """Where the selector's choice counts: masked positions of the block, for a rewriting one all of them."""
        if not self._rewrites:
            return view.eligible
        return (view.blocks.block & view.canvas.writable).gather(1, view.positions)  # the scratch column is neither

    def growth(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: SamplerState
    ) -> tuple[Bool[Tensor, "B N"], Growth | None]:
        """What is still chosen where rows grow, and how they do; None: rows never grow."""
        if not self.grows:
            return chosen, None
        grown = self.sampler.blocks.grow(view, chosen, state.blocks)
        assert grown is not None
        growth, state.blocks = grown
        canvas = view.canvas
        growth = growth._replace(length=torch.minimum(growth.length, canvas.asked - canvas.end))
        return chosen & ~(growth.hold & (growth.length > 0))[:, None], growth

    def revise(
        self, view: StepView, chosen: Bool[Tensor, "B N"], exiting: Bool[Tensor, " B"] | None, state: SamplerState
    ) -> Bool[Tensor, "B W"] | None:
        """Take back what the reviser doubts; other parts forget what they knew of those positions."""
        if self.sampler.reviser is None:
            return None
        reviser, shape = self.sampler.reviser, view.canvas.tokens.shape
        again, state.reviser = self.answers.several(reviser.step, (view, chosen, state.reviser), ("bool",), shape)
        # Of truth values > is "but not".
        again = again & (view.blocks.block > view.canvas.masked)
        if exiting is not None:
            again = again & ~exiting[:, None]
        return self.remask(view.canvas, again, state)

    def remask(self, canvas: Canvas, where: Bool[Tensor, "B W"], state: SamplerState) -> Bool[Tensor, "B W"]:
        """Mask positions again, of those that may be written; parts forget what they knew of them."""
        where = canvas.remask(where)
        for role in ONE_PART:
            part = getattr(self.sampler, role)
            if part is not None:
                setattr(state, role, part.forget(where, getattr(state, role)))
        for role in SEVERAL_PARTS:
            pairs = zip(getattr(self.sampler, role), getattr(state, role), strict=True)
            setattr(state, role, tuple(part.forget(where, memory) for part, memory in pairs))
        return where

    def shorten(self, view: StepView, chosen: Bool[Tensor, "B N"], rows: Bool[Tensor, " B"] | None = None) -> StepView:
        """After the commits of a step: those of ``rows`` (None: all) whose stop rule has seen the end of the text end
        there, and so does their block. Waits for nothing; the host learns of it with the next report."""
        if self._cuts_short is None:
            return view
        canvas = view.canvas
        end = self.answers.one(self._cuts_short.new_end, (view, chosen), "int", canvas.end.shape)
        assert end is not None
        canvas.shorten(end if rows is None else torch.where(rows, end, canvas.end))
        return within(view)


def within(view: StepView) -> StepView:
    """The view of rows that have become shorter: so have their blocks."""
    canvas, blocks = view.canvas, view.blocks
    block = blocks.block & (canvas.columns < canvas.end[:, None])
    # Schedules go on as if the block had been opened with that end.
    masks = torch.minimum(blocks.block_masks, (canvas.writable & block).sum(dim=1))
    end = torch.maximum(torch.minimum(blocks.block_end, canvas.end), blocks.block_start)
    return replace(view, blocks=replace(blocks, block_end=end, block=block, block_masks=masks))
