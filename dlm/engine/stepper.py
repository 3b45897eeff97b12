"""How one step is taken: a forward of the rows as they stand, and one choice from it.

What takes several steps from a forward (drafts), or asks about states that the rows are not in (probes), is another
:class:`Stepper`, in :mod:`dlm.speculation`; the loop does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.batch import Batch
from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.forward import Forward, Seen
from dlm.engine.interfaces import Growth
from dlm.engine.plan import ForwardPlan
from dlm.engine.row import Row
from dlm.engine.sampler_run import SamplerRun, SamplerState, within
from dlm.engine.step import BlockState, StepView
from dlm.models.backbone import ModelDescription


class StepTools(NamedTuple):
    """What a stepper works with, the same for a whole run.

    Attributes:
        rules: the parts of the sampler.
        forward: the model, its head and its clock.
        description: what a sampler may know of the model.
    """

    rules: SamplerRun
    forward: Forward
    description: ModelDescription


@dataclass(frozen=True)
class StepInputs:
    """What a step starts from.

    Attributes:
        batch: the rows.
        blocks: their open blocks.
        opened: rows that have just opened theirs; None: none has. ``[B]``
        most: the most positions that are eligible in a row.
        plan: what the cache wants to be fed.
        eligible, wanted: positions that may be committed, and those to propose for. ``[B, W]``
        ahead: see :meth:`Stepper.ahead`. ``[B, W]``
    """

    batch: Batch
    blocks: BlockState
    opened: Bool[Tensor, " B"] | None
    most: int
    plan: ForwardPlan
    eligible: Bool[Tensor, "B W"]
    wanted: Bool[Tensor, "B W"]
    ahead: Bool[Tensor, "B W"] | None


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    Attributes:
        view: everything that was known, its block state that of the row's last step.
        chosen: which of ``view.positions`` were committed. ``[B, N]``
        counts: positions that each row's forward took, known on the host.
        remasked: canvas positions that were taken back; None: nothing may be. ``[B, W]``
        exiting: rows that commit all they have left; None: there is no early exit. ``[B]``
        forward: forwards of each row before this one, where steps are not forwards. ``[B]``
        report: what else must reach the host with the step's synchronisation. Each ``[B]``
        seen: what the forward showed, where an early exit may need more of it.
        growth: masks that were put into the rows, after which positions are counted as they stand now; None: rows never
            grow.
    """

    view: StepView
    chosen: Bool[Tensor, "B N"]
    counts: Sequence[int]
    remasked: Bool[Tensor, "B W"] | None = None
    exiting: Bool[Tensor, " B"] | None = None
    forward: Int[Tensor, " B"] | None = None
    report: Mapping[str, Int[Tensor, " B"]] = field(default_factory=dict)
    seen: Seen | None = None
    growth: Growth | None = None


class Stepper:
    """Takes the steps of one run."""

    def ahead(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"] | None:
        """Positions behind the block to propose for too, where that changes nothing else; None: none."""
        return None

    def take(self, inputs: StepInputs, state: SamplerState) -> StepOutcome:
        """The forward, and all that follows from it on the canvas. ``state`` receives the new memories; nothing else
        changes before the first commit, so a step that runs out of memory can be taken again."""
        raise NotImplementedError

    def booked(self, rows: Sequence[Row], status: Sequence[Mapping[str, int]], seconds: Mapping[str, float]) -> None:
        """The host knows what came of the step, and is about to book it on the rows."""

    def complete(self, batch: Batch, outcome: StepOutcome) -> StepOutcome:
        """What can be done only now that the host knows what came of the step."""
        return outcome


class PlainStepper(Stepper):
    """One forward of the rows as they stand, one step of the sampler."""

    def __init__(self, tools: StepTools) -> None:
        self.rules, self.forward = tools.rules, tools.forward

    def take(self, inputs: StepInputs, state: SamplerState, forwards: Int[Tensor, " B"] | None = None) -> StepOutcome:
        """A step. ``forwards``: those of each row before this one, where they are not its steps."""
        view, seen = self.look(inputs, state)
        return replace(self.settle(inputs, view, state, forwards=forwards), seen=seen)

    def look(self, inputs: StepInputs, state: SamplerState) -> tuple[StepView, Seen]:
        """The forward, and what the sampler is shown of it."""
        batch, blocks, plan = inputs.batch, inputs.blocks, inputs.plan
        canvas = batch.canvas
        most = max(self.rules.most(batch.rows, inputs.most), plan.most)
        positions = pack_positions(inputs.wanted, canvas.columns, most)
        here = inputs.eligible.gather(1, positions)
        seen = self.forward(canvas, blocks, plan, positions, here, state)
        shadow = self.forward.shadow(canvas, blocks, seen)
        view = StepView(
            canvas, blocks, positions, here, seen.proposal, shadow=shadow, attention=seen.attention, most=inputs.most
        )
        return view, seen

    def settle(
        self,
        inputs: StepInputs,
        view: StepView,
        state: SamplerState,
        forced: Bool[Tensor, "B N"] | None = None,
        forwards: Int[Tensor, " B"] | None = None,
    ) -> StepOutcome:
        """Choose, commit, revise and cut short, from what is known."""
        rules, canvas = self.rules, view.canvas
        view = rules.narrow(view, inputs.opened, state)
        if forced is not None:
            forced = forced & view.here(view.blocks.block)
        view, chosen, exiting = rules.select(view, state, forced)
        chosen, growth = rules.growth(view, chosen, state)
        if exiting is not None:
            exiting = exiting & all_masks_scored(self.forward, canvas, inputs.plan)
            end = rules.visible_end(canvas, inputs.batch.state)
            exiting = exiting if end is None else exiting & (end >= canvas.end)
            if growth is not None:  # nobody has scored the masks that come
                exiting = exiting & (growth.length == 0)
            chosen = chosen | (exiting[:, None] & view.eligible)
        step = view.blocks.step if forwards is None else forwards
        canvas.commit(view.positions, view.proposal.token, chosen, step, view.proposal.prob)
        remasked = rules.revise(view, chosen, exiting, state)
        if growth is not None:
            canvas.withdraw(-growth.length.clamp_max(0))
            growth = growth._replace(length=growth.length.clamp_min(0))
            canvas.insert(growth.at, growth.length)
            behind = (view.positions >= growth.at[:, None]) & view.real
            view = within(replace(view, positions=view.positions + behind * growth.length[:, None]))
        view = rules.shorten(view, chosen)
        return StepOutcome(view, chosen, inputs.plan.counts, remasked, exiting, forwards, growth=growth)

    def complete(self, batch: Batch, outcome: StepOutcome) -> StepOutcome:
        """Rows that exit commit what they have open outside the view."""
        rows = [row for row in batch.rows if row.exiting and row.open]
        if outcome.exiting is None or outcome.seen is None or not rows:
            return outcome
        view, canvas = outcome.view, outcome.view.canvas
        left = canvas.masked & outcome.exiting[:, None]
        positions = pack_positions(left, canvas.columns, max(row.open for row in rows))
        here = left.gather(1, positions)
        run = self.forward
        proposal = run.propose(canvas, view.blocks, outcome.seen.hidden, positions, here, batch.state.copy())
        canvas.commit(positions, proposal.token, here, view.blocks.step, proposal.prob)
        run.watch.mark("end")
        if positions.device.type == "cuda":
            torch.cuda.synchronize(positions.device)
        seconds = run.watch.read()
        for row in rows:
            row.open = row.block_open = 0
            row.seconds_step += seconds["forward"] / len(rows)
            row.seconds_sampler += seconds["sampler"] / len(rows)
        assert view.scores is not None
        nothing = torch.full_like(proposal.prob, -torch.inf, dtype=view.scores.dtype)
        rest = replace(view, positions=positions, eligible=here, proposal=proposal, scores=nothing)
        return replace(outcome, view=view.beside([rest]), chosen=torch.cat([outcome.chosen, here], dim=1))


def all_masks_scored(forward: Forward, canvas: Canvas, plan: ForwardPlan) -> Bool[Tensor, " B"]:
    """Rows whose forward showed every open position: what was not fed cannot be committed."""
    if plan.fed is None:
        return torch.ones_like(canvas.start, dtype=torch.bool)
    source = forward.source(canvas.columns.expand_as(canvas.tokens))
    shown = plan.fed.gather(1, source) if forward.shift else plan.fed
    return (canvas.masked <= shown).all(dim=1)  # of truth values <= is "implies"
