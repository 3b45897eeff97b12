"""What the parts of a sampler say at a step: row by row, on the device, and nothing that the host must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.batch import Batch
from dlm.engine.canvas import Canvas, Job, pack_positions
from dlm.engine.interfaces import Accepts, Checks, CutsOff, CutsShort, Forgets, Looks, Narrows, RowSize
from dlm.engine.proposal import Proposal
from dlm.engine.sampler import Sampler
from dlm.engine.step import BlockState, StepView


class SamplerRun:
    """A sampler at work. The loop asks at every step; drafts ask for steps that may come.

    Args:
        sampler: whose parts are asked.
        stores: whether a cache keeps keys, so that every position that is looked at costs.
    """

    longest: int

    def __init__(self, sampler: Sampler, stores: bool) -> None:
        self.sampler = sampler
        # Asking a protocol is slow; what the parts are able to do is asked once.
        self._lookers: list[Looks] = sampler.able(Looks)
        self._cuts_short = sampler.stop if isinstance(sampler.stop, CutsShort) else None
        if stores and self._cuts_short is not None:
            # What it looks at ahead of the block would have to be recomputed at every step.
            self._lookers = [part for part in self._lookers if part is not sampler.stop]
        asked = self._cuts_short is not None and self._cuts_short.asks_accepted
        self._accepts = sampler.selector if asked and isinstance(sampler.selector, Accepts) else None
        self._cuts_off = sampler.selector if isinstance(sampler.selector, CutsOff) else None
        self._narrows = sampler.blocks if isinstance(sampler.blocks, Narrows) else None
        self._forgetful = [(role, part) for role, part in sampler.parts.items() if isinstance(part, Forgets)]

    def fit(self, jobs: Sequence[Job]) -> None:
        """What can be said before the first forward; each row is asked about, since rows may differ in length."""
        regions = {job.end - job.start for job in jobs}
        self.longest = self.sampler.blocks.longest(max(regions))
        for region in sorted(regions):
            for part in self.sampler.able(Checks):
                part.check(region, min(self.longest, region))

    def open_blocks(self, canvas: Canvas, blocks: BlockState, states: dict) -> tuple[BlockState, Bool[Tensor, " B"]]:
        """Open the next block of every row whose block is full; and which rows these are."""
        masked = canvas.masked
        opened = ~(masked & blocks.block).any(dim=1)
        start, end, states["blocks"] = self.sampler.blocks.step(canvas, states["blocks"])
        start = torch.where(opened, start, blocks.block_start)
        end = torch.where(opened, end, blocks.block_end)
        block = canvas.inside(start, end)
        blocks = replace(blocks, block_start=start, block_end=end).opened(opened, block, (masked & block).sum(dim=1))
        return blocks, opened

    def wanted(
        self, canvas: Canvas, blocks: BlockState, eligible: Bool[Tensor, "B W"]
    ) -> tuple[Bool[Tensor, "B W"], Bool[Tensor, "B W"] | None]:
        """Positions to propose for: the eligible ones and those a part looks at; and those an early exit looks at."""
        exiting = None
        leaver: object = self.sampler.exit
        for part in self._lookers:
            if part is leaver:
                exiting = part.positions_to_score(canvas, blocks)
            else:
                eligible = eligible | part.positions_to_score(canvas, blocks)
        return eligible, exiting

    def most(self, batch: Batch, eligible: int) -> int:
        """The most positions a row proposes for, known on the host."""
        if not self._lookers:
            return eligible
        region = max(row.job.end - row.job.start for row in batch.rows)
        size = RowSize(region, self.longest, max(row.job.end for row in batch.rows))
        beyond = sum(max(0, part.most_positions_to_score(eligible, size) - eligible) for part in self._lookers)
        return min(eligible + beyond, size.row)

    def narrow(self, view: StepView, opened: Bool[Tensor, " B"] | None, states: dict) -> StepView:
        """Let the schedule settle the blocks it has just opened, now that the forward is known."""
        if opened is None or self._narrows is None:
            return view
        canvas, blocks = view.canvas, view.blocks
        end, states["blocks"] = self._narrows.narrow(view, opened, states["blocks"])
        end = torch.where(opened, torch.minimum(end, blocks.block_end), blocks.block_end)
        block = canvas.inside(blocks.block_start, end)
        masks = torch.where(opened, (canvas.masked & block).sum(dim=1), blocks.block_masks)
        until = torch.where(opened, end, blocks.opened_end)
        blocks = replace(blocks, block_end=end, block=block, block_masks=masks, opened_end=until)
        return view.with_(blocks=blocks, eligible=view.eligible & view.here(block))

    def order_known(
        self, canvas: Canvas, blocks: BlockState, eligible: Bool[Tensor, "B W"], count: int, states: dict
    ) -> Bool[Tensor, "B W"]:
        """What a sampler that does not read the proposals will commit at this step."""
        positions = pack_positions(eligible, canvas.columns, count)
        nothing = torch.zeros_like(positions, dtype=torch.float32)
        unknown = Proposal(positions, nothing)
        view = StepView(canvas, blocks, positions, eligible.gather(1, positions), unknown, most=count)
        view, chosen, _ = self.select(view, None, dict(states))
        return view.on_canvas(chosen, False)

    def select(
        self, view: StepView, forced: Bool[Tensor, "B N"] | None, states: dict
    ) -> tuple[StepView, Bool[Tensor, "B N"], Bool[Tensor, " B"] | None]:
        """Scores, budget and choice, and the rows that would commit all they have. A row that may commit something
        but would not, commits its best position."""
        sampler = self.sampler
        scores, states["score"] = sampler.score.step(view, states["score"])
        scores = scores.masked_fill(~view.eligible, -torch.inf)
        view = view.with_(scores=scores)
        for i, modifier in enumerate(sampler.modifiers):
            scores, states[f"modifier{i}"] = modifier.step(view, states[f"modifier{i}"])
            scores = scores.masked_fill(~view.eligible, -torch.inf)
            view = view.with_(scores=scores)
        if sampler.budget is not None:
            budget, states["budget"] = sampler.budget.step(view, states["budget"])
            view = view.with_(budget=budget)
        if self._accepts is not None:
            view = view.with_(accepted=self._accepts.accepted(view))
        chosen, states["selector"] = sampler.selector.step(view, states["selector"])
        chosen = chosen & self._allowed(view)
        if not sampler.idle_steps:
            idle = ~chosen.any(dim=1, keepdim=True)
            if forced is not None:
                idle = idle & ~forced.any(dim=1, keepdim=True)
            best = scores.argmax(dim=1, keepdim=True)
            chosen = chosen.scatter(1, best, chosen.gather(1, best) | (idle & view.eligible.gather(1, best)))
        if forced is not None:
            chosen = chosen | forced
        if sampler.lookahead is not None:
            states["lookahead"] = sampler.lookahead.next(view, chosen)
        exiting = None
        if sampler.exit is not None:
            exiting, states["exit"] = sampler.exit.step(view, states["exit"])
        return view, chosen, exiting

    def _allowed(self, view: StepView) -> Bool[Tensor, "B N"]:
        """Where the selector's choice counts: masked positions of the block, for a rewriting one all of them."""
        if not self.sampler.rewrites:
            return view.eligible
        return view.here(view.blocks.block & view.canvas.writable)

    def revise(
        self, view: StepView, chosen: Bool[Tensor, "B N"], exiting: Bool[Tensor, " B"] | None, states: dict
    ) -> Bool[Tensor, "B W"] | None:
        """Take back what the reviser doubts; other parts forget what they knew of those positions."""
        if self.sampler.reviser is None:
            return None
        again, states["reviser"] = self.sampler.reviser.step(view, chosen, states["reviser"])
        again = again & view.blocks.block & view.canvas.writable & ~view.canvas.masked
        if exiting is not None:
            again = again & ~exiting[:, None]
        view.canvas.remask(again)
        for role, part in self._forgetful:
            states[role] = part.forget(again, states[role])
        return again

    def cut(self, view: StepView, chosen: Bool[Tensor, "B N"], rows: Bool[Tensor, " B"] | None = None) -> StepView:
        """After the commits of a step: those of ``rows`` (None: all) whose stop rule has seen the end of the text end
        there, and so does their block. Waits for nothing; the host learns of it with the next report."""
        if self._cuts_short is None:
            return view
        canvas, blocks = view.canvas, view.blocks
        end = self._cuts_short.cut(view, chosen)
        canvas.shorten(end if rows is None else torch.where(rows, end, canvas.end))
        block = blocks.block & (canvas.columns < canvas.end[:, None])
        # Schedules go on as if the block had been opened with that end.
        masks = torch.minimum(blocks.block_masks, (canvas.writable & block).sum(dim=1))
        end = torch.maximum(torch.minimum(blocks.block_end, canvas.end), blocks.block_start)
        return view.with_(blocks=replace(blocks, block_end=end, block=block, block_masks=masks))

    def shortened(self, canvas: Canvas, before: Int[Tensor, " B"]) -> Int[Tensor, " B"] | None:
        """The new ends of the rows that a stop rule has shortened since their ends were these, -1 for the others; None
        without such a rule."""
        return None if self._cuts_short is None else torch.where(canvas.end < before, canvas.end, -1)
