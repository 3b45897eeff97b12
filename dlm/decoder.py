"""The decode loop: plan -> forward -> propose -> select -> commit -> revise -> record. There is no other one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.batch import Batch, Row
from dlm.canvas import Job, SpecialIds, pack_positions
from dlm.errors import NumericsError, OutOfMemoryError, ProgressError
from dlm.forward import FullCanvas, Pass, Stopwatch
from dlm.models.backbone import Backbone, ModelDescription
from dlm.proposal import Vocabulary
from dlm.protocols import Cache
from dlm.result import RowResult
from dlm.sampler import Sampler
from dlm.view import Clock, StepView

# A row that needs more forwards than this many per position is going round in circles (design, law 3).
MAX_FORWARDS_PER_POSITION = 4


@dataclass(frozen=True)
class StepEvent:
    """What one step did.

    Attributes:
        rows: the row in each slot of the batch; ``rows[b].job.index`` names it.
        view: everything that was known at the step, scores and budget included.
        chosen: which of ``view.positions`` were committed. ``[B, N]``
        remasked: canvas positions that a reviser took back; None without one. ``[B, W]``
        filled: the id a stop rule filled the rest of the row with, -1 where it did not; None without one. ``[B]``
    """

    rows: Sequence[Row]
    view: StepView
    chosen: Bool[Tensor, "B N"]
    remasked: Bool[Tensor, "B W"] | None
    filled: Int[Tensor, " B"] | None


class Decoder:
    """Decodes jobs with one model, one sampler and one cache.

    Raises:
        SettingsError: the sampler does not fit the jobs.
        NumericsError: the model produced NaN.
        ProgressError: a row does not come to an end.
        OutOfMemoryError: a single row does not fit into memory.
    """

    def __init__(
        self, model: Backbone, description: ModelDescription, sampler: Sampler, cache: Cache | None = None
    ) -> None:
        self.model = model
        self.description = description
        self.sampler = sampler
        self.cache = cache if cache is not None else FullCanvas()

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job], batch_size: int, device: torch.device) -> Iterator[StepEvent | RowResult]:
        """Decode ``jobs``, at most ``batch_size`` at a time.

        Yields a :class:`StepEvent` after every step and a :class:`RowResult` whenever a row is finished, in the
        order in which rows finish. A batch that runs out of memory is halved and goes on.
        """
        if not jobs:
            return
        self._check(jobs)
        ids = SpecialIds(self.description.mask_id, self.description.eos_ids)
        batch = Batch.start(jobs, batch_size, ids, self.sampler.parts, device)
        self.watch = Stopwatch(device)
        self.forward = Pass(self.model, self.sampler, self._vocabulary(), self.watch)
        while batch.rows:
            yield from self._finish(batch)
            if not batch.rows:
                break
            try:
                event = self._step(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                _shrink(batch, error)
                continue
            yield event

    def _check(self, jobs: Sequence[Job]) -> None:
        region = max(job.end - job.start for job in jobs)
        block = self.sampler.blocks.longest(region)
        if self.sampler.budget is not None:
            self.sampler.budget.check(region, block)

    def _vocabulary(self) -> Vocabulary:
        d, proposer = self.description, self.sampler.proposer
        unconfident: tuple[int, ...] = ()
        if proposer.end_confidence == "aliased":
            # The reference's aliased tensors spare the end-of-text id as soon as noise makes them distinct.
            unconfident = d.eos_ids if proposer.temperature == 0 else d.eos_ids[1:]
        return Vocabulary(d.mask_id, d.vocab_size, d.valid_vocab, unconfident)

    def _step(self, batch: Batch) -> StepEvent:
        """One forward of the batch and everything that follows from it. Nothing changes before the commit, so a
        step that runs out of memory can be taken again."""
        self.watch.mark("sampler")
        canvas, states = batch.canvas, dict(batch.states)
        clock, eligible, count = self._open_blocks(batch, states)
        positions = pack_positions(eligible, canvas.columns, count)
        plan = self.cache.plan(canvas, positions, batch.ends)
        proposal, states = self.forward(canvas, plan, positions, clock.step, states)
        view = StepView(canvas, clock, positions, eligible.gather(1, positions), proposal)
        view, chosen = self._select(view, states)

        canvas.commit(positions, proposal.token, chosen, clock.step, proposal.prob)
        remasked = self._revise(view, chosen, states)
        batch.states = states
        filled = self._close(batch, view, plan.tokens.shape[1])
        return StepEvent(tuple(batch.rows), view, chosen, remasked, filled)

    def _open_blocks(self, batch: Batch, states: dict) -> tuple[Clock, Bool[Tensor, "B W"], int]:
        """The clock with a block for every row, the eligible positions, and the most of them in a row."""
        canvas, clock = batch.canvas, batch.clock
        masked = canvas.masked
        eligible = masked & clock.block
        if all(row.block_open for row in batch.rows):
            return clock, eligible, max(row.block_open for row in batch.rows)
        opened = ~eligible.any(dim=1)
        start, end, states["blocks"] = self.sampler.blocks.step(canvas, states["blocks"])
        start = torch.where(opened, start, clock.block_start)
        end = torch.where(opened, end, clock.block_end)
        block = canvas.inside(start, end)
        eligible = masked & block
        clock = Clock(
            step=clock.step,
            block_start=start,
            block_end=end,
            block_step=clock.block_step.masked_fill(opened, 0),
            block_masks=torch.where(opened, eligible.sum(dim=1), clock.block_masks),
            block=block,
        )
        longest = self.sampler.blocks.longest(max(row.job.end - row.job.start for row in batch.rows))
        return clock, eligible, min(longest, max(row.open for row in batch.rows))

    def _select(self, view: StepView, states: dict) -> tuple[StepView, Bool[Tensor, "B N"]]:
        """Scores, budget and choice. A row that may commit something but would not, commits its best position."""
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
        chosen, states["selector"] = sampler.selector.step(view, states["selector"])
        chosen = chosen & view.eligible
        if not sampler.idle_steps:
            idle = ~chosen.any(dim=1, keepdim=True)
            best = scores.argmax(dim=1, keepdim=True)
            chosen = (chosen.scatter(1, best, chosen.gather(1, best) | idle)) & view.eligible
        return view, chosen

    def _revise(self, view: StepView, chosen: Bool[Tensor, "B N"], states: dict) -> Bool[Tensor, "B W"] | None:
        if self.sampler.reviser is None:
            return None
        again, states["reviser"] = self.sampler.reviser.step(view, chosen, states["reviser"])
        again = again & view.canvas.writable & ~view.canvas.masked
        view.canvas.remask(again)
        return again

    def _close(self, batch: Batch, view: StepView, width: int) -> Int[Tensor, " B"] | None:
        """Stop rules, clocks, and the step's one synchronisation: what is open, and was every number a number."""
        canvas, clock, fill = batch.canvas, view.clock, None
        masked = canvas.masked
        block_open = (masked & clock.block).sum(dim=1)
        if self.sampler.stop is not None:
            fill = self.sampler.stop.after_block(canvas, clock, block_open == 0)
            ended = masked & (fill >= 0)[:, None]
            canvas.tokens = torch.where(ended, fill[:, None], canvas.tokens)
            masked = masked & ~ended
        batch.clock = replace(clock, step=clock.step + 1, block_step=clock.block_step + 1)
        bad = (view.proposal.prob.isnan() & view.eligible).any(dim=1)
        self.watch.mark("end")
        status = torch.stack([masked.sum(dim=1), block_open, bad]).tolist()
        self._account(batch.rows, status, width)
        return fill

    def _account(self, rows: Sequence[Row], status: list[list[int]], width: int) -> None:
        """Book the step on every row, and raise what went wrong."""
        seconds = self.watch.read()
        forwards = 2 if self.sampler.guidance else 1
        for row, still_open, block_open, broken in zip(rows, *status, strict=True):
            row.open, row.block_open = still_open, block_open
            row.steps += 1
            # A row's own positions: the padding of a ragged batch is not its doing.
            row.token_forwards += forwards * min(width, row.job.end)
            row.seconds_step += seconds["forward"] / len(rows)
            row.seconds_sampler += seconds["sampler"] / len(rows)
            if broken:
                raise NumericsError(
                    f"prompt {row.job.index}: the model's logits are NaN at step {row.steps - 1}. Check the checkpoint,"
                    " or load it with a wider dtype (dtype=float32)"
                )
            self._bound(row)

    def _bound(self, row: Row) -> None:
        limit = MAX_FORWARDS_PER_POSITION * len(row.job.writable) + self.sampler.idle_steps
        if row.open and row.steps >= limit:
            raise ProgressError(
                f"prompt {row.job.index} still has {row.open} masked positions after {row.steps} forwards"
                f" ({MAX_FORWARDS_PER_POSITION} per position): the reviser takes back what was committed; bound it"
            )

    def _finish(self, batch: Batch) -> Iterator[RowResult]:
        finished = [slot for slot, row in enumerate(batch.rows) if not row.open]
        for slot in finished:
            yield RowResult.of(
                batch.rows[slot], batch.canvas, slot, forwards_per_step=2 if self.sampler.guidance else 1
            )
        if finished:
            batch.release(finished)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out (the CPU allocator raises a bare RuntimeError)."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def _shrink(batch: Batch, error: BaseException) -> None:
    """Halve the batch after an out-of-memory error; re-raise anything else."""
    if not _is_out_of_memory(error):
        raise error
    if len(batch.rows) == 1:
        row = batch.rows[0]
        raise OutOfMemoryError(
            f"prompt {row.job.index} alone ({row.job.end} positions) does not fit into memory: use fewer new tokens, a"
            " narrower dtype, or a device with more memory"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    before, left = len(batch.rows), batch.halve()
    warnings.warn(f"out of memory with {before} rows in the batch; going on with {left}", RuntimeWarning, stacklevel=4)
