"""FreeDave at work: one forward of every row and its drafts, and all the steps that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.forward import Hidden
from dlm.engine.plan import Branches, PackedBranches
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerState
from dlm.engine.step import BlockState
from dlm.engine.stepper import PlainStepper, StepInputs, StepOutcome, Stepper, StepTools
from dlm.speculation.draft_length import DraftLengthController, Load
from dlm.speculation.drafts import COUNTERS, DraftBuilder, Drafts, blocks_from, counters, merge, ranked
from dlm.speculation.verification import Answers, VerifiedSteps, Verifier, constant

# Acceptance of drafts that a step would not have led to.
PARTS = ("subset", "values")
# The most forwards for which drafting rests when nothing can be drafted.
LONGEST_REST = 15


class DraftState(NamedTuple):
    """What the drafter remembers of the rows.

    Attributes:
        drafts: those at hand; None: none of any row.
        forwards: forwards each row has seen, fewer than steps where drafts came true. ``[B]``
    """

    drafts: Drafts | None
    forwards: Int[Tensor, " B"]


class DraftingStepper(Stepper):
    """The drafter of one run.

    Args:
        acceptance: see :class:`dlm.speculation.freedave.FreeDave`.
        packed: whether the drafts of a row lie one behind the other in one row of the forward.
        sources: answers to draft from.
        length: states per forward, or what chooses it.
    """

    def __init__(
        self,
        tools: StepTools,
        acceptance: str,
        packed: bool,
        sources: int,
        length: int | DraftLengthController,
    ) -> None:
        self.rules, self.forward, _ = tools
        self.plain = PlainStepper(tools)
        spans_blocks = acceptance == "eager"
        self.spans_blocks, self.packed, self.sources = spans_blocks, packed, sources
        self.controller = length if isinstance(length, DraftLengthController) else None
        self.length = length.longest if isinstance(length, DraftLengthController) else length
        # Without a draft to show for it so many times, and forwards until the next attempt.
        self.futile = self.rest = 0
        self.builder = DraftBuilder(self.rules, spans_blocks, spans_blocks or sources > 1)
        sampler = self.rules.sampler
        # One ranking holds all drafts where each commits as many of the best and what is best does not change; the host
        # can tell how many there are.
        ranks = not (spans_blocks or self.rules.shortens or sampler.modifiers) and sampler.score.of_proposals
        self.pace = self.rules.pace if ranks and sources == 1 else None
        self.ranked = 0
        skips = timeless(sampler) and self.pace is None and sources == 1
        self.verifier = Verifier(
            self.rules, spans_blocks, self.pace is not None, skips, acceptance if acceptance in PARTS else None
        )
        # Drafts can get so many positions behind their block when each commits one; more, and they end there.
        longest = self.rules.longest
        self.beyond = -(-self.length // longest) * longest if spans_blocks else 0

    def ahead(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"] | None:
        """Positions behind the block that drafts may fill; None: they end with it."""
        if not self.spans_blocks:
            return None
        near = canvas.columns < (blocks.block_end + self.beyond)[:, None]
        return canvas.masked & near & (canvas.columns >= blocks.block_end[:, None])

    def take(self, inputs: StepInputs, state: SamplerState) -> StepOutcome:
        """One forward of every row and its drafts, and the steps that follow from it: the view of all steps together,
        its block state that of each row's last one."""
        batch, blocks = inputs.batch, inputs.blocks
        memory: DraftState | None = state.stepper
        for row in batch.rows:
            row.drafts = batch.cache.evaluable(row) if row.ahead else 0
        length = self._length(inputs)
        forwards = blocks.step if memory is None else torch.minimum(memory.forwards, blocks.step)  # a fresh row: 0
        self.ranked = 0
        if length == 1 and not any(row.drafts for row in batch.rows):
            state.stepper = DraftState(None, forwards + 1)
            return self.plain.take(inputs, state, forwards)
        drafts = None if memory is None else memory.drafts
        answers = self._evaluate(inputs, drafts, state.copy())
        verified = self.verifier.steps(inputs, answers, forwards, state)
        if answers.branches is not None:
            batch.cache.accept(verified.kept)
        drafts = self._draft(inputs, answers, verified, length, state)
        state.stepper = DraftState(drafts, forwards + 1)
        report = _report(drafts, verified)
        return StepOutcome(verified.view, verified.chosen, answers.counts, forward=forwards, report=report)

    def booked(self, rows: Sequence[Row], status: Sequence[Mapping[str, int]], seconds: Mapping[str, float]) -> None:
        """Learn what came of the drafts and how long the forward took, and note the drafts that every row has now."""
        numbers = [self._number(now) for now in status]
        if self.controller is not None:
            for row, now in zip(rows, status, strict=True):
                # With several sources a step has more drafts than one; what counts is how far they reach.
                self.controller.learn(_depth(row), now.get("taken", 0))
            if self.ranked or "drafts" in status[0]:
                # Rows whose blocks end with every step have nothing to draft; asking costs all the same.
                self.futile = 0 if any(numbers) else min(2 * self.futile + 1, LONGEST_REST)
                self.rest = self.futile
            branches = 1 + max(row.drafts for row in rows)
            forward = seconds["forward"] + seconds.get("refresh", 0.0)
            self.controller.timed(self.load, branches, forward, seconds["sampler"])
        for row, now, number in zip(rows, status, numbers, strict=True):
            next_step = 1 + now.get("taken", 0)
            row.ahead = [
                (
                    now.get(f"steps{place}", row.steps + next_step + place + 1),
                    now.get(f"block_steps{place}", row.block_steps + next_step + place + 1),
                )
                for place in range(number)
            ]

    def _number(self, now: Mapping[str, int]) -> int:
        """How many drafts a row has, by the report of its step."""
        if self.ranked and self.pace is not None:
            # Each takes what a step takes, and leaves something.
            return max(0, min(self.ranked, -(-now["block_open"] // self.pace) - 1))
        return now.get("drafts", 0)

    def _length(self, inputs: StepInputs) -> int:
        """States that the next forward should evaluate of each row."""
        if self.controller is None:
            return self.length
        rows, streams = len(inputs.batch.rows), 2 if self.rules.sampler.guidance else 1
        self.load = Load(rows, streams * sum(inputs.plan.counts) / rows, streams * inputs.most)
        length = self.controller.length(self.load)
        if self.rest:
            self.rest -= 1
            return 1
        return length

    def _evaluate(self, inputs: StepInputs, drafts: Drafts | None, state: SamplerState) -> Answers:
        """One forward of all branches; of the rows alone when there is no draft."""
        batch, run = inputs.batch, self.forward
        canvas, rows = batch.canvas, batch.rows
        most = self.rules.most(rows, self.rules.longest + self.beyond if self.spans_blocks else inputs.most)
        most = min(most, canvas.scratch)
        if drafts is None or not any(row.drafts for row in rows):
            wanted = self._shown(inputs.wanted, inputs.ahead, inputs.plan.fed)
            positions = pack_positions(wanted, canvas.columns, most)
            here = inputs.eligible.gather(1, positions)
            proposal = run(canvas, inputs.blocks, inputs.plan, positions, here, state).proposal
            asked = None if inputs.ahead is None else inputs.wanted.gather(1, positions)
            return Answers(positions, here, proposal, asked, None, inputs.plan.counts)
        branches = self._branches(inputs, drafts)
        many, blocks = branches.canvas, branches.blocks
        plan = batch.cache.spread(branches)
        wanted = self._shown(branches.wanted, branches.ahead, plan.fed)
        positions = pack_positions(wanted, canvas.columns, most)
        open_ = many.masked & blocks.block if self.rules.looks else branches.wanted
        here = open_.gather(1, positions)
        hidden = Hidden(plan.feeds, run.branch_states(branches, plan, self.packed), many)
        proposal = run.propose(many, blocks, hidden, positions, here, state)
        asked = None if branches.ahead is None else branches.wanted.gather(1, positions)
        return Answers(positions, here, proposal, asked, branches, plan.counts, plan.any_way)

    def _shown(
        self, wanted: Bool[Tensor, "V W"], ahead: Bool[Tensor, "V W"] | None, fed: Bool[Tensor, "V W"] | None
    ) -> Bool[Tensor, "V W"]:
        """Positions to propose for; behind the block those whose rows are fed anyway."""
        if ahead is None or fed is None:
            return wanted if ahead is None else wanted | ahead
        columns = torch.arange(fed.shape[1], device=fed.device).expand_as(fed)
        return wanted | (ahead & fed.gather(1, self.forward.source(columns)))

    def _branches(self, inputs: StepInputs, drafts: Drafts) -> Branches:
        """Every row and those of its drafts that can be evaluated now."""
        batch, device = inputs.batch, drafts.tokens.device
        counts = [1 + row.drafts for row in batch.rows]
        order = PackedBranches.of(tuple(counts), device)
        first, owner, each = order.grid[:, 0], order.owner, max(counts)

        def beside(row: Tensor, of_drafts: Tensor) -> Tensor:
            return order.of_branches(torch.cat([row[:, None], of_drafts[:, : each - 1]], dim=1))

        many = batch.canvas.branched(beside(batch.canvas.tokens, drafts.tokens), owner)
        depths = [d for row in batch.rows for d in (0, *(steps - row.steps for steps, _ in row.ahead[: row.drafts]))]
        if drafts.counters is None:
            blocks = inputs.blocks.of(owner).later(constant(tuple(depths), device))
        else:
            blocks = blocks_from(beside(counters(inputs.blocks), drafts.counters), many)
        if drafts.parent is None:
            above = [number - (depth > 0) for number, depth in enumerate(depths)]
            parent = constant(tuple(above), device)
        else:
            parent = beside(first, first[:, None] + drafts.parent)
        wanted, _ = self.rules.wanted(many, blocks, many.masked & blocks.block)
        return Branches(
            canvas=many,
            blocks=blocks,
            wanted=wanted,
            ahead=self.ahead(many, blocks),
            owner=owner,
            parent=parent,
            first=first,
            depths=depths,
            counts=counts,
        )

    def _draft(
        self, inputs: StepInputs, answers: Answers, verified: VerifiedSteps, length: int, state: SamplerState
    ) -> Drafts | None:
        """What will come next if the answers to the states before it stay; None: nothing will."""
        canvas, branch = inputs.batch.canvas, verified.kept
        if self.pace is not None and verified.left is not None:
            # A step is taken already, and the last one leaves nothing.
            length = min(length - 1, -(-inputs.most // self.pace) - 2)
            if length < 1:
                return None
            self.ranked = length
            entries = answers.positions[branch], answers.proposal.token[branch]
            return Drafts(ranked(canvas, verified.left[branch], entries, self.pace, length))
        chains = []
        for back in range(min(self.sources, answers.deepest + 1)):
            if back and answers.branches is not None:
                branch = answers.branches.parent[branch]
            most = self.rules.longest if self.spans_blocks else inputs.most
            view = answers.guess(canvas, verified.view.blocks, branch, most)
            chain = self.builder.chain(view, state, length - 1)
            chains.append(chain._replace(there=chain.there & (verified.taken >= back)[:, None]) if back else chain)
        return merge(chains)


def timeless(sampler: Sampler) -> bool:
    """Whether a greedy step follows from what stands on the row and the answers to it, and from nothing else."""
    plain = not (sampler.modifiers or sampler.transforms or sampler.proposer.temperature)
    even = sampler.budget is None or sampler.budget.each is not None
    return plain and even and sampler.score.of_proposals and sampler.selector.timeless


def _depth(row: Row) -> int:
    """How many steps ahead the drafts reach that the row's forward evaluates."""
    return row.ahead[row.drafts - 1][0] - row.steps if row.drafts else 0


def _report(drafts: Drafts | None, verified: VerifiedSteps) -> dict[str, Int[Tensor, " B"]]:
    """What the host must know: steps taken, and where the drafts at hand stand."""
    report = {"taken": verified.taken}
    if drafts is not None and drafts.number is not None:
        report["drafts"] = drafts.number
    if drafts is not None and drafts.counters is not None:
        report["block_steps"] = verified.view.blocks.block_step + 1
        steps, block_steps = (drafts.counters[..., COUNTERS.index(name)] for name in ("step", "block_step"))
        for place in range(drafts.tokens.shape[1]):
            report |= {f"steps{place}": steps[:, place], f"block_steps{place}": block_steps[:, place]}
    return report
