"""FreeDave at work: one forward of every row and its drafts, and all the steps that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.forward import Hidden
from dlm.engine.plan import Branches
from dlm.engine.proposal import Proposal
from dlm.engine.row import Row
from dlm.engine.sampler_run import SamplerState
from dlm.engine.step import BlockState, StepView
from dlm.engine.stepper import PlainStepper, StepInputs, StepOutcome, Stepper, StepTools
from dlm.speculation.draft_length import DraftLengthController, Load
from dlm.speculation.drafts import COUNTERS, DraftBuilder, Drafts, blocks_from, counters, merge

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


@dataclass(frozen=True)
class Answers:
    """What one forward said of every row and its drafts.

    Attributes:
        positions, eligible: as in a :class:`dlm.engine.step.StepView`, per branch. ``[V, N]``
        proposal: each ``[V, N]``
        asked: entries an undrafted forward would show too; None: all of them. ``[V, N]``
        first: the branch that is the row as it stands. ``[B]``
        numbers: drafts evaluated of each row; None: none of any.
        counts: positions fed for each row, known on the host.
    """

    positions: Int[Tensor, "V N"]
    eligible: Bool[Tensor, "V N"]
    proposal: Proposal
    asked: Bool[Tensor, "V N"] | None
    first: Int[Tensor, " B"]
    numbers: Int[Tensor, " B"] | None
    counts: Sequence[int]

    def view(self, canvas: Canvas, blocks: BlockState, branch: Int[Tensor, " B"], most: int) -> StepView:
        """The view of a step from these branches: what an undrafted forward would have shown."""
        view = self.guess(canvas, blocks, branch, most)
        if self.asked is None:
            return view
        return replace(view, positions=view.positions.masked_fill(~self.asked[branch], canvas.scratch))

    def guess(self, canvas: Canvas, blocks: BlockState, branch: Int[Tensor, " B"], most: int) -> StepView:
        """The same with what was shown for the sake of drafts."""
        proposal = self.proposal.gather(branch)
        return StepView(canvas, blocks, self.positions[branch], self.eligible[branch], proposal, most=most)


class VerifiedSteps(NamedTuple):
    """The steps that followed from one forward.

    Attributes:
        steps: views, and what was committed from each.
        path: the branch each step started from. ``[B, K]``
        taken: steps beyond the first of each row. ``[B]``
        last: the block state of each row's last step.
    """

    steps: list[tuple[StepView, Bool[Tensor, "B N"]]]
    path: Int[Tensor, "B K"]
    taken: Int[Tensor, " B"]
    last: BlockState


class DraftingStepper(Stepper):
    """The drafter of one run.

    Args:
        spans_blocks: whether drafts go over the border of a block.
        packed: whether the drafts of a row lie one behind the other in one row of the forward.
        sources: answers to draft from.
        length: states per forward, or what chooses it.
    """

    def __init__(
        self,
        tools: StepTools,
        spans_blocks: bool,
        packed: bool,
        sources: int,
        length: int | DraftLengthController,
    ) -> None:
        self.rules, self.forward, _ = tools
        self.plain = PlainStepper(tools)
        self.spans_blocks, self.packed, self.sources = spans_blocks, packed, sources
        self.controller = length if isinstance(length, DraftLengthController) else None
        self.length = length.longest if isinstance(length, DraftLengthController) else length
        # Without a draft to show for it so many times, and forwards until the next attempt.
        self.futile = self.rest = 0
        self.builder = DraftBuilder(self.rules, spans_blocks)
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
        forwards = torch.where(blocks.step > 0, blocks.step if memory is None else memory.forwards, 0)
        if length == 1 and not any(row.drafts for row in batch.rows):
            state.stepper = DraftState(None, forwards + 1)
            return self.plain.take(inputs, state, forwards)
        drafts = None if memory is None else memory.drafts
        answers = self._evaluate(inputs, drafts, state.copy())
        verified = self._verify(inputs, answers, drafts, forwards, state)
        if answers.numbers is not None:
            batch.cache.accept(verified.path[:, -1])
        drafts = self._draft(inputs, answers, verified, length, state)
        state.stepper = DraftState(drafts, forwards + 1)
        (first, chosen), *others = verified.steps
        view = replace(first.beside([view for view, _ in others]), blocks=verified.last)
        chosen = torch.cat([chosen, *(more for _, more in others)], dim=1)
        report = _report(drafts, verified)
        return StepOutcome(view, chosen, answers.counts, forward=forwards, report=report)

    def booked(self, rows: Sequence[Row], status: Sequence[Mapping[str, int]], seconds: Mapping[str, float]) -> None:
        """Learn what came of the drafts and how long the forward took, and note the drafts that every row has now."""
        if self.controller is not None:
            for row, now in zip(rows, status, strict=True):
                # With several sources a step has more drafts than one; what counts is how far they reach.
                self.controller.learn(_depth(row), now.get("taken", 0))
            made = [now["drafts"] for now in status if "drafts" in now]
            if made:  # rows whose blocks end with every step have nothing to draft; asking costs all the same
                self.futile = 0 if any(made) else min(2 * self.futile + 1, LONGEST_REST)
                self.rest = self.futile
            branches = 1 + max(row.drafts for row in rows)
            forward = seconds["forward"] + seconds.get("refresh", 0.0)
            self.controller.timed(self.load, branches, forward, seconds["sampler"])
        for row, now in zip(rows, status, strict=True):
            places = range(now.get("drafts", 0))
            row.ahead = [(now[f"steps{place}"], now[f"block_steps{place}"]) for place in places]

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
            first = torch.arange(len(rows), device=positions.device)
            asked = None if inputs.ahead is None else inputs.wanted.gather(1, positions)
            return Answers(positions, here, proposal, asked, first, None, inputs.plan.counts)
        branches = self._branches(inputs, drafts)
        many, blocks = branches.canvas, branches.blocks
        plan = batch.cache.spread(branches)
        wanted = self._shown(branches.wanted, branches.ahead, plan.fed)
        positions = pack_positions(wanted, canvas.columns, most)
        here = (many.masked & blocks.block).gather(1, positions)
        hidden = Hidden(plan.feeds, run.branch_states(branches, plan, self.packed), many)
        proposal = run.propose(many, blocks, hidden, positions, here, state)
        numbers = constant(tuple(row.drafts for row in rows), positions.device)
        asked = None if branches.ahead is None else branches.wanted.gather(1, positions)
        return Answers(positions, here, proposal, asked, branches.first, numbers, plan.counts)

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
        owner: list[int] = []
        place: list[int] = []
        depth: list[int] = []
        for index, row in enumerate(batch.rows):
            ahead = row.ahead[: row.drafts]
            owner += [index] * (1 + len(ahead))
            place += range(-1, len(ahead))
            depth += [0, *(steps - row.steps for steps, _ in ahead)]
        first = [number for number, nth in enumerate(place) if nth < 0]
        slot, nth, starts = (constant(tuple(numbers), device) for numbers in (owner, place, first))
        itself, draft = nth < 0, nth.clamp_min(0)
        tokens = torch.where(itself[:, None], batch.canvas.tokens[slot], drafts.tokens[slot, draft])
        many = batch.canvas.branched(tokens, slot)
        numbers = torch.where(itself[:, None], counters(inputs.blocks)[slot], drafts.counters[slot, draft])
        blocks = blocks_from(numbers, many)
        wanted, _ = self.rules.wanted(many, blocks, many.masked & blocks.block)
        return Branches(
            canvas=many,
            blocks=blocks,
            wanted=wanted,
            ahead=self.ahead(many, blocks),
            owner=slot,
            parent=starts[slot] + torch.where(itself, 0, drafts.parent[slot, draft]),
            first=starts,
            depths=depth,
            counts=[1 + row.drafts for row in batch.rows],
        )

    def _verify(
        self,
        inputs: StepInputs,
        answers: Answers,
        drafts: Drafts | None,
        forwards: Int[Tensor, " B"],
        state: SamplerState,
    ) -> VerifiedSteps:
        """Step from the answers for as long as the state arrived at is one that was evaluated."""
        rules, canvas, most = self.rules, inputs.batch.canvas, self._most(inputs)
        blocks, opened = inputs.blocks, inputs.opened
        branch, taken = answers.first, torch.zeros_like(answers.first)
        alive = torch.ones_like(branch, dtype=torch.bool)
        path, steps, passed = [branch], [], []
        deepest = max(map(_depth, inputs.batch.rows))
        for number in range(deepest + 1):
            view = answers.view(canvas, blocks, branch, most)
            view = rules.narrow(replace(view, eligible=view.eligible & alive[:, None]), opened, state)
            trial, blocks = state.copy(), view.blocks
            view, chosen, _ = rules.select(view, trial)
            chosen = chosen & alive[:, None]
            canvas.commit(view.positions, view.proposal.token, chosen, forwards, view.proposal.prob)
            state.adopt(trial, alive)
            blocks = rules.shorten(view, chosen, alive).blocks
            passed.append(counters(blocks))
            taken = torch.where(alive, number, taken)
            steps.append((view, chosen))
            if number == deepest:
                break
            alive, blocks, opened = self._onward(canvas, blocks, alive, state)
            found, following = _match(answers, drafts, branch, canvas, blocks)
            alive = alive & found
            if not bool(alive.any()):  # waiting for the device is cheaper than a step for nobody
                break
            branch = torch.where(alive, following, branch)
            path.append(branch)
        rows = torch.arange(taken.shape[0], device=taken.device)
        last = blocks_from(torch.stack(passed, dim=1)[rows, taken], canvas)
        return VerifiedSteps(steps, torch.stack(path, dim=1), taken, last)

    def _onward(
        self, canvas: Canvas, blocks: BlockState, alive: Bool[Tensor, " B"], state: SamplerState
    ) -> tuple[Bool[Tensor, " B"], BlockState, Bool[Tensor, " B"] | None]:
        """The block state of the step that comes next, in the next block where this one is full; and which rows go
        on."""
        if not self.spans_blocks:
            return alive, blocks.later(1), None
        stop = self.rules.sampler.stop
        if stop is not None:
            closed = alive & ~(canvas.masked & blocks.block).any(dim=1)
            alive = alive & (stop.after_block(canvas, blocks, closed) < 0)
        blocks, opened = self.rules.open_blocks(canvas, blocks.later(1), state)
        return alive, blocks, opened

    def _draft(
        self, inputs: StepInputs, answers: Answers, verified: VerifiedSteps, length: int, state: SamplerState
    ) -> Drafts:
        """The next drafts, from the answers to the present state and to those that led to it."""
        chains, rows = [], torch.arange(verified.path.shape[0], device=verified.path.device)
        for back in range(min(self.sources, verified.path.shape[1])):
            at = verified.taken - back
            branch = verified.path[rows, at.clamp_min(0)]
            view = answers.guess(inputs.batch.canvas, verified.last, branch, self._most(inputs))
            chain = self.builder.chain(view, state, length - 1)
            chains.append(chain._replace(there=chain.there & (at >= 0)[:, None]))
        return merge(chains)

    def _most(self, inputs: StepInputs) -> int:
        """The most positions a row may commit at a step."""
        return self.rules.longest if self.spans_blocks else inputs.most


@lru_cache(maxsize=1024)
def constant(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, " K"]:
    """Numbers that many steps need again, copied to the device once. To be read only."""
    return torch.tensor(numbers, device=device)


def _depth(row: Row) -> int:
    """How many steps ahead the drafts reach that the row's forward evaluates."""
    return row.ahead[row.drafts - 1][0] - row.steps if row.drafts else 0


def _report(drafts: Drafts, verified: VerifiedSteps) -> dict[str, Int[Tensor, " B"]]:
    """What the host must know: steps taken, the block's, and those of the drafts at hand."""
    steps, block_steps = (drafts.counters[..., COUNTERS.index(name)] for name in ("step", "block_step"))
    report = {"taken": verified.taken, "block_steps": verified.last.block_step + 1, "drafts": drafts.number}
    for place in range(drafts.tokens.shape[1]):
        report |= {f"steps{place}": steps[:, place], f"block_steps{place}": block_steps[:, place]}
    return report


def _match(
    answers: Answers, drafts: Drafts | None, branch: Int[Tensor, " B"], canvas: Canvas, blocks: BlockState
) -> tuple[Bool[Tensor, " B"], Int[Tensor, " B"]]:
    """Whether the state arrived at from ``branch`` was evaluated, and as which branch."""
    assert drafts is not None
    if answers.numbers is None:
        return torch.zeros_like(branch, dtype=torch.bool), branch
    nth = torch.arange(drafts.tokens.shape[1], device=branch.device)
    there = (nth < answers.numbers[:, None]) & (answers.first[:, None] + drafts.parent == branch[:, None])
    same = (drafts.tokens == canvas.tokens[:, None])[..., : canvas.scratch].all(dim=2)
    same = same & (drafts.counters == counters(blocks)[:, None]).all(dim=2)
    right = there & same
    return right.any(dim=1), answers.first + 1 + right.long().argmax(dim=1)
