"""The decode loop: plan -> forward -> propose -> select -> commit -> revise -> record. There is no other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.batch import Batch, Place
from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.events import Settled
from dlm.engine.events import StepEvent as StepEvent
from dlm.engine.forward import Forward
from dlm.engine.interfaces import Cache, CacheRun, Speculator
from dlm.engine.named import cache_of, drafter_of, sampler_of
from dlm.engine.no_cache import NoCache
from dlm.engine.plan import CacheQuery, Layout, layers_on
from dlm.engine.proposal import Statistic, Vocabulary
from dlm.engine.result import RowResult
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerRun, SamplerState
from dlm.engine.static import RunTools, StaticSteps, check_static
from dlm.engine.step import BlockState, StepView
from dlm.engine.stepper import PlainStepper, StepInputs, StepOutcome, Stepper, StepTools
from dlm.engine.stopwatch import Stopwatch
from dlm.errors import DlmError, NumericsError, OutOfMemoryError, ProgressError, SettingsError
from dlm.models.backbone import Backbone, ModelDescription

Failed = Callable[[int, DlmError], None]


@dataclass(frozen=True)
class Decoder:
    """One model, one sampler, one cache and one drafter; every :meth:`run` begins with nothing but these settings.

    Attributes:
        model, description: the backbone, and what it says of itself.
        sampler: which tokens are committed when.
        cache: which positions are recomputed; None recomputes all, or where the model's attention has blocks, all of
            the open ones (:class:`cache.BlockCausal`, which is exact).
        drafter: several steps from one forward (:class:`dlm.speculation.FreeDave`); None: none.

    Each of the three may be a preset's name, or the preset uncalled.

    Raises:
        SettingsError: they do not go together.
    """

    model: Backbone
    description: ModelDescription
    sampler: Sampler
    cache: Cache | None = None
    drafter: Any = None

    def __post_init__(self) -> None:
        for role, made in (("sampler", sampler_of), ("cache", cache_of), ("drafter", drafter_of)):
            object.__setattr__(self, role, made(getattr(self, role)))
        if self.description.attention_block:
            object.__setattr__(self, "sampler", self.sampler.within(self.description.attention_block))
            object.__setattr__(self, "cache", self.cache or cache_of("block_causal"))
        sampler, drafter, about = self.sampler, self.drafter, self.description
        self.policy.check(sampler, about)
        for speculator in (drafter, sampler.probe):
            if speculator is not None:
                speculator.goes_with(sampler, self.policy, about)
        if "shadow" in sampler.needs and (about.shift or about.attention_block):
            needed, given = (
                ("logits in place", "are shifted by one (Dream)")
                if about.shift
                else ("full attention", "is block-causal")
            )
            raise SettingsError(
                f"sampler {sampler.name!r} verifies with masked copies of the block, which needs {needed}; this model's"
                f" {given}: use another sampler"
            )
        if getattr(self.model, "graphs", False):
            check_static(sampler, self.policy, drafter)
        if self.policy.stores and not self.model.layered:
            raise SettingsError("this model does not take a cache (its hidden() knows no memory): use cache=none")

    @property
    def policy(self) -> Cache:
        """The cache, or what stands for none."""
        return NoCache() if self.cache is None else self.cache

    def run(
        self,
        jobs: Sequence[Job],
        batch_size: int,
        device: torch.device,
        failed: Failed | None = None,
        record: frozenset[Statistic] = frozenset(),
        room: int = 0,
    ) -> DecodeRun:
        """Decode ``jobs``, at most ``batch_size`` at a time.

        Args:
            jobs, batch_size, device: the rows, the most that are decoded together, and where.
            failed: is told of a row that goes wrong (NaN, no end, no memory for it alone), which then leaves the batch;
                None: it ends the run.
            record: statistics to be computed for whoever listens.
            room: positions of the longest row that may join later (:mod:`dlm.engine.admission`).

        Raises:
            SettingsError: the sampler does not fit the jobs.
        """
        return DecodeRun(self, jobs, batch_size, device, failed, record, room)


class DecodeRun(Iterator[StepEvent | RowResult]):
    """Everything that changes while jobs are decoded; several runs of one decoder do not touch each other.

    Yields a :class:`StepEvent` after every step and a :class:`RowResult` whenever a row is finished, in the order in
    which rows finish. A batch that runs out of memory is halved and goes on.

    Raises:
        NumericsError: the model produced NaN.
        ProgressError: a row does not come to an end.
        OutOfMemoryError: a single row does not fit into memory.
    """

    def __init__(
        self,
        decoder: Decoder,
        jobs: Sequence[Job],
        batch_size: int,
        device: torch.device,
        failed: Failed | None,
        record: frozenset[Statistic],
        room: int = 0,
    ) -> None:
        self.decoder, self.sampler, self.failed = decoder, decoder.sampler, failed
        self.batch_size, self.room, self.stops = batch_size, room, any(job.stops for job in jobs)
        self.graphs = bool(getattr(decoder.model, "graphs", False))  # a stranger's model may not say
        self._events: Iterator[StepEvent | RowResult] = iter(())
        self._asked: tuple[Tensor, CacheQuery] | None = None
        if not jobs:
            return
        about, self.policy = decoder.description, decoder.policy
        if about.attention_block:
            jobs = [job.completed(about.attention_block, about.mask_id, about.context_length) for job in jobs]
        needs, self.asks_ahead = self.sampler.needs | self.policy.needs | record, self.policy.asks_ahead
        self.rules = SamplerRun.fitted(self.sampler, self.policy.stores, jobs, room)
        self.rules.surplus |= bool(room and about.attention_block) and self.sampler.keeps
        self.watch = Stopwatch(device)
        vocabulary, longest = Vocabulary.of(about, self.sampler.proposer), self.rules.longest
        constraint = None
        if self.sampler.constraint is not None:
            constraint = self.sampler.constraint.open(vocabulary, self.sampler.proposer, about.eos_ids, device)
            for job in jobs:
                constraint.admit(job)
        self.forward = Forward(
            decoder.model, self.sampler, needs, vocabulary, self.watch, longest, about.shift, constraint,
            max(room, *(job.end - job.start for job in jobs)),
        )  # fmt: skip
        tools = StepTools(self.rules, self.forward, about)
        with torch.inference_mode():
            place = Place(SpecialIds(about.mask_id, about.eos_ids), device)
            self.batch = Batch.start(jobs, batch_size, self.sampler, place, self._open_cache, room)
            how: Speculator | None = decoder.drafter or self.sampler.probe
            self.stepper: Stepper = PlainStepper(tools) if how is None else how.stepper(tools)
        self.static = None
        if self.graphs:
            step = partial(self.device_step, static=True)
            self.static = StaticSteps(RunTools(self.batch, self.rules, self.watch, step, self.hear))
        self.batch.steady = self.graphs
        self._events = self._decode()

    def __next__(self) -> StepEvent | RowResult:
        with torch.inference_mode():  # around each step, not around the generator: who listens stays outside
            return next(self._events)

    def close(self) -> None:
        """End the run where it stands, and let go of its memory."""
        self._events = iter(())
        for name in ("batch", "stepper", "forward", "static", "_asked"):
            vars(self).pop(name, None)

    def _decode(self) -> Iterator[StepEvent | RowResult]:
        batch = self.batch
        while batch.rows:
            yield from self._finish()
            if not batch.rows:
                break
            try:
                event = self._step()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                self.forward.hits.clear()
                try:
                    batch.shrink(error)
                except OutOfMemoryError as full:
                    self._fail(batch.rows[0], full)
                continue
            yield event

    def _open_cache(self, canvas: Canvas) -> CacheRun:
        about = self.decoder.description
        return self.policy.open(
            Layout(
                rows=canvas.tokens.shape[0],
                columns=canvas.tokens.shape[1],
                shift=about.shift,
                attention_block=about.attention_block,
                streams=2 if self.sampler.guidance else 1,
                static=self.decoder.model.compiled or self.graphs,
                device=canvas.tokens.device,
                fixed=self.graphs,
                layers=layers_on(self.decoder.model, canvas.tokens.device),
            )
        )

    def _step(self) -> StepEvent:
        """One forward of the batch and everything that follows from it."""
        event = self._taken()
        stopped = [row.stopped for row in self.batch.rows]
        return event.ended(self.batch.canvas, stopped) if any(stopped) else event

    def _taken(self) -> StepEvent:
        width = None if self.static is None else self.static.width()
        if self.static is not None and width is not None:
            return self.static.take(width)
        self.watch.mark("sampler")
        settled, event = self.device_step()
        self.hear(settled)
        outcome = self.stepper.complete(self.batch, settled.outcome)
        rows = tuple(row for row in self.batch.rows if not row.ghost)
        return replace(event, rows=rows, chosen=outcome.chosen, view=self._shown(outcome))

    def device_step(self, static: bool = False) -> tuple[Settled, StepEvent]:
        """All of a step that the device does; ``static``: with positions for the longest block, however few are
        open."""
        batch, state = self.batch, self.batch.state.copy()
        inputs, ends = self._inputs(state, static), batch.canvas.end
        outcome = self.stepper.take(inputs, state)
        batch.state = state
        settled = self._settle(inputs, outcome)
        end = batch.canvas.end
        cut = torch.where(end < ends, end, -1) if self.rules.shortens or self.rules.grows else None
        return settled, StepEvent(
            tuple(batch.rows), self._shown(outcome), outcome.chosen, outcome.remasked, settled.filled, cut,
            inputs.plan.refreshed, inputs.plan.fed, outcome.growth,
        )  # fmt: skip

    def _shown(self, outcome: StepOutcome) -> StepView:
        """The view of a step, its block state that counts forwards."""
        view = outcome.view
        if outcome.forward is not None:
            view = replace(view, blocks=replace(view.blocks, step=outcome.forward))
        return view

    def _inputs(self, state: SamplerState, static: bool = False) -> StepInputs:
        """Open the blocks, and ask the cache what to feed."""
        batch = self.batch
        blocks, opened, most = (batch.blocks, None, self.rules.most_open) if static else self._open_blocks(state)
        ahead = self.stepper.ahead(batch.canvas, blocks)
        query = replace(self._query(blocks, most, state), ahead=ahead)
        plan = batch.cache.plan(query)
        eligible = query.eligible if plan.eligible is None else plan.eligible
        wanted = query.wanted
        if plan.wanted is not None:
            wanted = plan.wanted
        elif query.exiting is not None:
            wanted = wanted | query.exiting
        return StepInputs(batch, blocks, opened, most, plan, eligible, wanted, ahead)

    def _query(self, blocks: BlockState, most: int, state: SamplerState) -> CacheQuery:
        """What the cache is asked at a step. The end of the step before has asked already, if nothing has changed."""
        batch, rules = self.batch, self.rules
        canvas, eligible = batch.canvas, batch.open_in(blocks)
        if self._asked is not None and self._asked[0] is eligible and self._asked[1].blocks is blocks:
            return self._asked[1]
        open_ = eligible
        wanted, exiting = rules.wanted(canvas, blocks, eligible)
        visible, end = None, rules.visible_end(canvas, state)
        if end is not None:
            visible, alone = canvas.columns < end[:, None], wanted is eligible
            eligible = eligible & visible
            wanted = eligible if alone else wanted & visible
            exiting = None if exiting is None else exiting & visible
        upcoming = rules.upcoming(canvas, blocks, eligible, most, state) if self.asks_ahead else None
        soon = most if rules.pace is None else min(rules.pace, most)
        query = CacheQuery(canvas, blocks, eligible, wanted, batch.rows, exiting, upcoming, None, soon, visible)
        self._asked = open_, query
        return query

    def _open_blocks(self, state: SamplerState) -> tuple[BlockState, Bool[Tensor, " B"] | None, int]:
        """A block for every row, the rows that have just opened one (None: none has), and the most positions that are
        eligible in a row."""
        batch = self.batch
        for row in batch.rows:
            row.block_steps = row.block_steps if row.block_open else 0
        if self.rules.ready(batch.rows):
            return batch.blocks, None, max(row.block_open for row in batch.rows)
        blocks, opened = self.rules.open_blocks(batch.canvas, batch.blocks, state)
        return blocks, opened, min(self.rules.most_open, max(row.open for row in batch.rows))

    def _settle(self, inputs: StepInputs, outcome: StepOutcome) -> Settled:
        """Stop rules, clocks, and the report: what is open, and was every number a number."""
        batch, view, exiting, fill = self.batch, outcome.view, outcome.exiting, None
        canvas, blocks = batch.canvas, view.blocks
        masked = canvas.masked
        block_open = batch.open_in(blocks).sum(dim=1)
        held = self.rules.held(batch.state, canvas.start.shape)
        if held is not None:
            block_open = block_open + held
        if self.sampler.stop is not None:
            closed = block_open == 0 if exiting is None else (block_open == 0) & ~exiting
            asked = self.rules.answers
            fill = asked.one(self.sampler.stop.after_block, (canvas, blocks, closed), "int", closed.shape)
            ended = masked & (fill >= 0)[:, None]
            canvas.fill(ended, fill)
            masked = masked & ~ended
        batch.blocks = blocks.later(1)
        bad = view.proposal.prob.isnan()
        bad = (bad & view.eligible if self.rules.looks else bad).any(dim=1)
        left = masked.sum(dim=1) if held is None else masked.sum(dim=1) + held
        report = {"open": left, "block_open": block_open, "broken": bad}
        if self.rules.surplus:
            report["served"] = ~canvas.wanting
        if self.forward.mixtures:
            report["experts"] = self.forward.experts_hit().expand_as(left)
        if exiting is not None:
            report["exiting"] = exiting
        end = self.rules.visible_end(canvas, batch.state)
        if end is not None:
            report["visible_end"] = torch.minimum(end, canvas.end)
        elif self.rules.shortens or self.rules.grows:
            report["visible_end"] = canvas.end
        report |= outcome.report
        of_cache = batch.cache.end(view, outcome.chosen)
        if self.policy.stores and not self.sampler.moves_blocks:
            fed_next = batch.cache.foresee(self._query(batch.blocks, inputs.most, batch.state))
            if fed_next is not None:
                report["fed_next"] = fed_next
        own = len(report)
        report |= of_cache
        self.watch.mark("end")
        stacked = torch.stack(list(report.values()), dim=1)
        if self.stops:
            stacked = torch.cat([stacked, canvas.tokens], dim=1)
        return Settled(outcome, fill, tuple(report), own, stacked, outcome.counts, inputs.plan.refreshed)

    def hear(self, settled: Settled) -> None:
        """The host reads the report, the text of rows with stop strings among it."""
        rows, mask_id = self.batch.rows, self.decoder.description.mask_id
        status, tokens = settled.read(rows)
        self._account(status, settled.counts, settled.refreshed)
        for row, ids in zip(rows, tokens, strict=True):
            row.look(ids, mask_id, self.sampler.keeps)

    def _account(self, status: Sequence[Mapping[str, int]], counts: Sequence[int], refreshed: frozenset[int]) -> None:
        """Book the step on every row, and raise what went wrong."""
        rows, seconds = self.batch.rows, self.watch.read()
        self.stepper.booked(rows, status, seconds)
        # What is not a refresh is shared by all: the other rows' forward, and the head.
        own = sum(not row.ghost for row in rows)
        shared = {name: seconds.get(name, 0.0) / own for name in ("forward", "sampler")}
        refresh = seconds.get("refresh", 0.0) / max(1, len(refreshed))
        for slot, (row, now, fed) in enumerate(zip(rows, status, counts, strict=True)):
            row.book(now, self._fed(row, fed))
            row.seconds_refresh += refresh if slot in refreshed else 0.0
            row.seconds_step += shared["forward"]
            row.seconds_sampler += shared["sampler"]
            try:
                row.check(bool(now["broken"]), self.sampler.selector.most_held, self.rules.idle_steps)
            except (NumericsError, ProgressError) as error:
                self._fail(row, error)

    def _fed(self, row: Row, positions: int) -> int:
        """Positions that a row's own forward took, with its shadow and in both streams: the padding of a ragged batch
        is not its doing."""
        if "shadow" in self.forward.needs:
            positions += min(self.rules.longest, row.job.end - row.job.start)
        return 2 * positions if self.sampler.guidance else positions

    def _fail(self, row: Row, error: DlmError) -> None:
        """A row has gone wrong: it leaves the batch, or ends the run where nobody is told."""
        if self.failed is None:
            raise error
        if not row.ghost:
            self.failed(row.job.index, error)
        row.failed = True

    def _finish(self) -> Iterator[RowResult]:
        batch, each = self.batch, 2 if self.sampler.guidance else 1
        attention_block = self.decoder.description.attention_block
        finished = [slot for slot, row in enumerate(batch.rows) if row.failed or row.served or not row.open]
        for slot in finished:
            if not batch.rows[slot].failed and not batch.rows[slot].ghost:
                yield RowResult.of(
                    batch.rows[slot], batch.canvas, slot, each, attention_block, len(self.forward.mixtures)
                )
        if finished:
            batch.release(finished)
