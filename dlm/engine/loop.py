"""The decode loop: plan -> forward -> propose -> select -> commit -> revise -> record. There is no other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.batch import Batch, Place
from dlm.engine.canvas import Canvas, Job, SpecialIds, pack_positions
from dlm.engine.early_exit import all_masks_scored, commit_rest
from dlm.engine.forward import Forward, Seen, Stopwatch
from dlm.engine.interfaces import Cache, CacheRun
from dlm.engine.no_cache import NoCache
from dlm.engine.plan import CacheQuery, ForwardPlan, Layout
from dlm.engine.proposal import Vocabulary
from dlm.engine.result import RowResult
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerRun
from dlm.engine.step import BlockState, StepView
from dlm.errors import DlmError, NumericsError, OutOfMemoryError, ProgressError, SettingsError
from dlm.models.backbone import Backbone, ModelDescription
from dlm.speculation.drafting import StepInputs
from dlm.speculation.freedave import FreeDave
from dlm.speculation.lookahead import branch


@dataclass(frozen=True)
class StepEvent:
    """What one step did.

    Attributes:
        rows: the row in each slot of the batch; ``rows[b].job.index`` names it.
        view: everything that was known at the step, scores and budget included.
        chosen: which of ``view.positions`` were committed. ``[B, N]``
        remasked: canvas positions that a reviser took back; None without one. ``[B, W]``
        filled: the id a stop rule filled the rest of the row with, -1 where it did not; None without one. ``[B]``
        cut: where a stop rule has let the row end, -1 where it did not; None without one. ``[B]``
        refreshed: slots that a cache recomputed whole.
        recomputed: positions that the forward recomputed; None: every one that could be. ``[B, W]``
    """

    rows: Sequence[Row]
    view: StepView
    chosen: Bool[Tensor, "B N"]
    remasked: Bool[Tensor, "B W"] | None
    filled: Int[Tensor, " B"] | None
    cut: Int[Tensor, " B"] | None = None
    refreshed: frozenset[int] = frozenset()
    recomputed: Bool[Tensor, "B W"] | None = None


class Decoder(SamplerRun):
    """Decodes jobs with one model, one sampler and one cache.

    Raises:
        SettingsError: the sampler does not fit the jobs.
        NumericsError: the model produced NaN.
        ProgressError: a row does not come to an end.
        OutOfMemoryError: a single row does not fit into memory.
    """

    def __init__(
        self,
        model: Backbone,
        description: ModelDescription,
        sampler: Sampler,
        cache: Cache | None = None,
        drafter: FreeDave | None = None,
    ) -> None:
        self.model = model
        self.description = description
        self.cache = cache if cache is not None else NoCache()
        self.cache.check(sampler, description)
        super().__init__(sampler, stores=self.cache.stores)
        self.drafter = drafter
        if drafter is not None:
            if not isinstance(drafter, FreeDave):
                raise SettingsError(f"{type(drafter).__name__} is no drafter: pass dlm.speculation.FreeDave(), or None")
            drafter.check(sampler, self.cache)
        self.needs = sampler.needs | self.cache.needs
        if "shadow" in sampler.needs and description.shift:
            raise SettingsError(
                f"sampler {sampler.name!r} verifies with masked copies of the block, which needs logits in place; this"
                " model's are shifted by one (Dream): use another sampler"
            )
        if self.cache.stores and not getattr(model, "layered", False):
            raise SettingsError("this model does not take a cache (its hidden() knows no memory): use cache=none")
        if "shadow" in sampler.needs and description.attention_block:
            raise SettingsError(
                f"sampler {sampler.name!r} verifies with masked copies of the block, which needs full attention; this"
                " model's is block-causal: use another sampler"
            )

    @torch.inference_mode()
    def run(
        self,
        jobs: Sequence[Job],
        batch_size: int,
        device: torch.device,
        failed: Callable[[int, DlmError], None] | None = None,
    ) -> Iterator[StepEvent | RowResult]:
        """Decode ``jobs``, at most ``batch_size`` at a time.

        Yields a :class:`StepEvent` after every step and a :class:`RowResult` whenever a row is finished, in the
        order in which rows finish. A batch that runs out of memory is halved and goes on.

        With ``failed`` a row that goes wrong (NaN, no end, no memory for it alone) ends nothing: it is taken out, and
        ``failed`` is told of it.
        """
        if not jobs:
            return
        self.fit(jobs)
        self.failed = failed
        place = Place(SpecialIds(self.description.mask_id, self.description.eos_ids), device)
        batch = Batch.start(jobs, batch_size, self.sampler.parts, place, self._open_cache)
        self.watch = Stopwatch(device)
        self.forward = Forward(self.model, self.sampler, self.needs, self._vocabulary(), self.watch, self.longest)
        self.drafting = None if self.drafter is None else self.drafter.open(self, device)
        while batch.rows:
            yield from self._finish(batch)
            if not batch.rows:
                break
            try:
                event = self._step(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                try:
                    batch.shrink(error)
                except OutOfMemoryError as full:
                    self._fail(batch.rows[0], full)
                continue
            yield event

    def _open_cache(self, canvas: Canvas) -> CacheRun:
        return self.cache.open(
            Layout(
                rows=canvas.tokens.shape[0],
                columns=canvas.tokens.shape[1],
                shift=self.description.shift,
                attention_block=self.description.attention_block,
                streams=2 if self.sampler.guidance else 1,
                static=getattr(self.model, "compiled", False),
                device=canvas.tokens.device,
            )
        )

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
        blocks, opened, count = self._open_blocks(batch, states)
        eligible = canvas.masked & blocks.block
        wanted, exiting = self.wanted(canvas, blocks, eligible)
        if self._cuts_off is not None:
            fed = canvas.columns < self._cuts_off.reach(canvas, states["selector"])[:, None]
            eligible, wanted = eligible & fed, wanted & fed
            exiting = None if exiting is None else exiting & fed
        ahead = None if self.drafting is None else self.drafting.ahead(canvas, blocks)
        upcoming = self.order_known(canvas, blocks, eligible, count, states) if self.cache.asks_ahead else None
        plan = batch.cache.plan(CacheQuery(canvas, blocks, eligible, wanted, batch.rows, exiting, upcoming, ahead))
        eligible = eligible if plan.eligible is None else plan.eligible
        if plan.wanted is not None:
            wanted = plan.wanted
        elif exiting is not None:
            wanted = wanted | exiting
        if self.drafting is not None:
            return self._drafted(StepInputs(batch, blocks, opened, count, plan, eligible, wanted, ahead), states)
        positions = pack_positions(wanted, canvas.columns, self.most(batch, count))
        view, forced, seen = self._look(batch, blocks, plan, positions, eligible, states)
        view = self.narrow(view.with_(most=count), opened, states)
        view, chosen, exiting = self.select(view, forced, states)
        if exiting is not None:
            exiting = exiting & all_masks_scored(self.model, canvas, plan)
            if self._cuts_off is not None:
                exiting = exiting & (self._cuts_off.reach(canvas, batch.states["selector"]) >= canvas.end)
            chosen = chosen | (exiting[:, None] & view.eligible)

        canvas.commit(positions, view.proposal.token, chosen, blocks.step, view.proposal.prob)
        remasked = self.revise(view, chosen, exiting, states)
        ends = canvas.end
        view = self.cut(view, chosen)
        batch.states = states
        filled = self._close(batch, view, chosen, exiting, plan)
        if exiting is not None and seen is not None:
            view, chosen = commit_rest(self.forward, batch, view, chosen, exiting, seen)
        cut = self.shortened(canvas, ends)
        return StepEvent(tuple(batch.rows), view, chosen, remasked, filled, cut, plan.refreshed, plan.fed)

    def _drafted(self, turn: StepInputs, states: dict) -> StepEvent:
        """The rest of a step whose forward also answers for states that may come next: several steps at once."""
        assert self.drafting is not None
        batch, ends = turn.batch, turn.batch.canvas.end
        view, chosen, counts = self.drafting.step(turn, states)
        batch.states = states
        filled = self._close(batch, view, chosen, None, replace(turn.plan, counts=counts))
        # To whoever listens a step is a forward.
        view = view.with_(blocks=replace(view.blocks, step=states["forwards"] - 1))
        cut, plan = self.shortened(batch.canvas, ends), turn.plan
        return StepEvent(tuple(batch.rows), view, chosen, None, filled, cut, plan.refreshed, plan.fed)

    def _open_blocks(self, batch: Batch, states: dict) -> tuple[BlockState, Bool[Tensor, " B"] | None, int]:
        """The clock with a block for every row, the rows that have just opened one (None: none has), and the most
        positions that are eligible in a row."""
        canvas, blocks = batch.canvas, batch.blocks
        for row in batch.rows:
            row.block_steps = row.block_steps if row.block_open else 0
        if all(row.block_open for row in batch.rows):
            return blocks, None, max(row.block_open for row in batch.rows)
        blocks, opened = self.open_blocks(canvas, blocks, states)
        return blocks, opened, min(self.longest, max(row.open for row in batch.rows))

    def _look(
        self,
        batch: Batch,
        blocks: BlockState,
        plan: ForwardPlan,
        positions: Int[Tensor, "B N"],
        eligible: Bool[Tensor, "B W"],
        states: dict,
    ) -> tuple[StepView, Bool[Tensor, "B N"] | None, Seen | None]:
        """The forward, and what it shows. With look-ahead also the positions whose tokens are settled by it."""
        canvas = batch.canvas
        here = eligible.gather(1, positions)
        candidates = states.get("lookahead")
        if self.sampler.lookahead is not None and candidates is not None:
            proposal, forced = branch(self.forward, batch, blocks, plan, (positions, here), candidates)
            return StepView(canvas, blocks, positions, here & ~forced, proposal), forced, None
        seen = self.forward(canvas, blocks, plan, positions, here, states)
        shadow = self.forward.shadow(canvas, blocks, seen)
        view = StepView(canvas, blocks, positions, here, seen.proposal, shadow=shadow, attention=seen.attention)
        return view, None, seen

    def _fed(self, rows: Sequence[Row], plan: ForwardPlan) -> list[int]:
        """Positions that each row's own forward took: the padding of a ragged batch is not its doing."""
        fed = list(plan.counts)
        if "shadow" in self.needs:
            fed = [n + min(self.longest, row.job.end - row.job.start) for n, row in zip(fed, rows, strict=True)]
        if self.sampler.lookahead is not None:
            most = self.sampler.lookahead.branches
            branches = [0 if slot in plan.refreshed else min(most, row.block_open) for slot, row in enumerate(rows)]
            fed = [n * (1 + more) for n, more in zip(fed, branches, strict=True)]
        return [2 * n for n in fed] if self.sampler.guidance else fed

    def _close(
        self,
        batch: Batch,
        view: StepView,
        chosen: Bool[Tensor, "B N"],
        exiting: Bool[Tensor, " B"] | None,
        plan: ForwardPlan,
    ) -> Int[Tensor, " B"] | None:
        """Stop rules, clocks, and the step's one synchronisation: what is open, and was every number a number."""
        canvas, blocks, fill = batch.canvas, view.blocks, None
        masked = canvas.masked
        block_open = (masked & blocks.block).sum(dim=1)
        if self.sampler.stop is not None:
            closed = block_open == 0 if exiting is None else (block_open == 0) & ~exiting
            fill = self.sampler.stop.after_block(canvas, blocks, closed)
            ended = masked & (fill >= 0)[:, None]
            canvas.fill(ended, fill)
            masked = masked & ~ended
        batch.blocks = replace(blocks, step=blocks.step + 1, block_step=blocks.block_step + 1)
        bad = (view.proposal.prob.isnan() & view.eligible).any(dim=1)
        report = {"open": masked.sum(dim=1), "block_open": block_open, "broken": bad}
        if exiting is not None:
            report["exiting"] = exiting
        if self._cuts_off is not None:
            report["reach"] = torch.minimum(self._cuts_off.reach(canvas, batch.states["selector"]), canvas.end)
        elif self._cuts_short is not None:
            report["reach"] = canvas.end
        if self.drafting is not None:
            report |= self.drafting.report(view, batch.states)
        own = len(report)
        report |= batch.cache.end(view, chosen)
        self.watch.mark("end")
        columns = torch.stack(list(report.values()), dim=1).tolist()
        for row, values in zip(batch.rows, columns, strict=True):
            row.cache = dict(zip(list(report)[own:], values[own:], strict=True))
        self._account(batch.rows, [dict(zip(report, row, strict=True)) for row in columns], plan)
        return fill

    def _account(self, rows: Sequence[Row], status: list[dict[str, int]], plan: ForwardPlan) -> None:
        """Book the step on every row, and raise what went wrong."""
        seconds, refreshed = self.watch.read(), plan.refreshed
        if self.drafting is not None:
            self.drafting.timed(rows, status, seconds)
        # What is not a refresh is shared by all: the other rows' forward, and the head.
        shared = {name: seconds[name] / len(rows) for name in ("forward", "sampler")}
        refresh = seconds.get("refresh", 0.0) / max(1, len(refreshed))
        for slot, (row, now, positions) in enumerate(zip(rows, status, self._fed(rows, plan), strict=True)):
            if self.drafting is not None:
                self.drafting.note(row, now)
            row.book(now, positions, {**shared, "refresh": refresh if slot in refreshed else 0.0})
            try:
                row.check(bool(now["broken"]), self.sampler.idle_steps)
            except (NumericsError, ProgressError) as error:
                self._fail(row, error)

    def _fail(self, row: Row, error: DlmError) -> None:
        """A row has gone wrong: it leaves the batch, or ends the run where nobody is told."""
        if self.failed is None:
            raise error
        self.failed(row.job.index, error)
        row.failed = True

    def _finish(self, batch: Batch) -> Iterator[RowResult]:
        finished = [slot for slot, row in enumerate(batch.rows) if row.failed or not row.open]
        for slot in finished:
            if batch.rows[slot].failed:
                continue
            yield RowResult.of(
                batch.rows[slot], batch.canvas, slot, forwards_per_step=2 if self.sampler.guidance else 1
            )
        if finished:
            batch.release(finished)
