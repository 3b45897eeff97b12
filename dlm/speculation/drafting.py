"""FreeDave at work: one forward of every row and its drafts, and all the steps that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.batch import Batch, renew_state
from dlm.engine.branches import Branches, canvas_of
from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.forward import Hidden
from dlm.engine.plan import ForwardPlan
from dlm.engine.proposal import Proposal
from dlm.engine.row import Row
from dlm.engine.step import BlockState, StepView
from dlm.speculation.draft_length import DraftLengthController, Load
from dlm.speculation.drafts import COUNTERS, DraftBuilder, Drafts, blocks_from, counters, later, merge
from dlm.speculation.packing import along_sequence, beside

if TYPE_CHECKING:
    from dlm.engine.loop import Decoder
    from dlm.speculation.freedave import FreeDave

# The most forwards for which drafting rests when nothing can be drafted.
LONGEST_REST = 15


class StepInputs(NamedTuple):
    """What a step starts from.

    Attributes:
        batch: the rows.
        blocks, opened, most: the open blocks, the rows that have just opened theirs (None: none), and the most
            positions eligible in a row.
        plan: what the cache wants to be fed.
        eligible, wanted: positions that may be committed, and those to propose for. ``[B, W]``
        ahead: see :meth:`Drafting.ahead`. ``[B, W]``
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
class Answers:
    """What one forward said of every row and its drafts.

    Attributes:
        positions, eligible: as in a :class:`dlm.engine.step.StepView`, per version. ``[V, N]``
        proposal: each ``[V, N]``
        asked: entries an undrafted forward would show too; None: all of them. ``[V, N]``
        first: the version that is the row as it stands. ``[B]``
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

    def view(self, canvas: Canvas, blocks: BlockState, version: Int[Tensor, " B"], most: int) -> StepView:
        """The view of a step from these versions: what an undrafted forward would have shown."""
        view = self.guess(canvas, blocks, version, most)
        if self.asked is None:
            return view
        return view.with_(positions=view.positions.masked_fill(~self.asked[version], canvas.scratch))

    def guess(self, canvas: Canvas, blocks: BlockState, version: Int[Tensor, " B"], most: int) -> StepView:
        """The same with what was shown for the sake of drafts."""
        proposal = self.proposal.gather(version)
        return StepView(canvas, blocks, self.positions[version], self.eligible[version], proposal, most=most)


class VerifiedSteps(NamedTuple):
    """The steps that followed from one forward.

    Attributes:
        steps: views, and what was committed from each.
        path: the version each step started from. ``[B, K]``
        taken: steps beyond the first of each row. ``[B]``
        last: the clock of each row's last step.
    """

    steps: list[tuple[StepView, Bool[Tensor, "B N"]]]
    path: Int[Tensor, "B K"]
    taken: Int[Tensor, " B"]
    last: BlockState


class Drafting:
    """The drafter of one run."""

    def __init__(self, how: FreeDave, decoder: Decoder, pace: DraftLengthController | None) -> None:
        self.how, self.decoder, self.pace = how, decoder, pace
        # Without a draft to show for it so many times, and forwards until the next attempt.
        self.futile = self.rest = 0
        self.draftsman = DraftBuilder(decoder, how.spans_blocks)
        self.length = pace.longest if pace is not None else int(how.draft_length)
        # Drafts can get so many positions behind their block when each commits one; more, and they end there.
        self.beyond = -(-self.length // decoder.longest) * decoder.longest if how.spans_blocks else 0

    def ahead(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"] | None:
        """Positions behind the block that drafts may fill; None: they end with it."""
        if not self.how.spans_blocks:
            return None
        near = canvas.columns < (blocks.block_end + self.beyond)[:, None]
        return canvas.masked & near & (canvas.columns >= blocks.block_end[:, None])

    def step(self, turn: StepInputs, states: dict[str, Any]) -> tuple[StepView, Bool[Tensor, "B N"], Sequence[int]]:
        """One forward of every row and its drafts, and the steps that follow from it.

        Returns the view of all steps together, its clock that of each row's last one; what was committed; and the
        positions fed for each row. ``states`` receives the new memories, the next drafts, and how many steps each row
        took beyond one.
        """
        batch, blocks = turn.batch, turn.blocks
        drafts: Drafts | None = states.get("drafts")
        for row in batch.rows:
            row.drafts = batch.cache.evaluable(row) if row.ahead else 0
        length = self._length(turn)
        forwards = torch.where(blocks.step > 0, states.get("forwards", blocks.step), 0)
        if length == 1 and not any(row.drafts for row in batch.rows):
            return self._alone(turn, forwards, states)
        answers = self._evaluate(turn, drafts, dict.fromkeys(states))
        walk = self._walk(turn, answers, drafts, forwards, states)
        if answers.numbers is not None:
            batch.cache.accept(walk.path[:, -1])
        states["drafts"] = self._draft(turn, answers, walk, length, states)
        states["forwards"], states["taken"] = forwards + 1, walk.taken
        (first, chosen), *others = walk.steps
        view = first.beside([view for view, _ in others]).with_(blocks=walk.last)
        return view, torch.cat([chosen, *(more for _, more in others)], dim=1), answers.counts

    def _alone(
        self, turn: StepInputs, forwards: Int[Tensor, " B"], states: dict[str, Any]
    ) -> tuple[StepView, Bool[Tensor, "B N"], Sequence[int]]:
        """A step without drafts before or after it: what the undrafted loop does, and nothing else."""
        decoder, (batch, blocks, plan) = self.decoder, (turn.batch, turn.blocks, turn.plan)
        canvas = batch.canvas
        positions = pack_positions(turn.wanted, canvas.columns, decoder.most(batch, turn.most))
        here = turn.eligible.gather(1, positions)
        proposal = decoder.forward(canvas, blocks, plan, positions, here, dict.fromkeys(states)).proposal
        view = StepView(canvas, blocks, positions, here, proposal, most=turn.most)
        view, chosen, _ = decoder.select(decoder.narrow(view, turn.opened, states), None, states)
        canvas.commit(positions, proposal.token, chosen, forwards, proposal.prob)
        states["drafts"], states["forwards"] = None, forwards + 1
        return decoder.cut(view, chosen), chosen, plan.counts

    def report(self, view: StepView, states: dict[str, Any]) -> dict[str, Int[Tensor, " B"]]:
        """What the host must know: steps taken, the block's clock, and the clocks of the drafts at hand."""
        drafts: Drafts | None = states["drafts"]
        if drafts is None:
            return {}
        steps, block_steps = (drafts.block_states[..., COUNTERS.index(name)] for name in ("step", "block_step"))
        report = {"taken": states["taken"], "block_steps": view.blocks.block_step + 1, "drafts": drafts.number}
        for place in range(drafts.tokens.shape[1]):
            report |= {f"steps{place}": steps[:, place], f"block_steps{place}": block_steps[:, place]}
        return report

    def _length(self, turn: StepInputs) -> int:
        """States that the next forward should evaluate of each row."""
        if self.pace is None:
            return self.length
        length = self.pace.length(self._load(turn))
        if self.rest:
            self.rest -= 1
            return 1
        return length

    def _load(self, turn: StepInputs) -> Load:
        rows, streams = len(turn.batch.rows), 2 if self.decoder.sampler.guidance else 1
        self.load = Load(rows, streams * sum(turn.plan.counts) / rows, streams * turn.most)
        return self.load

    def timed(self, rows: Sequence[Row], status: Sequence[dict[str, int]], seconds: dict[str, float]) -> None:
        """What came of a forward, before it is booked on the rows."""
        if self.pace is None:
            return
        for row, now in zip(rows, status, strict=True):
            # With several sources a step has more drafts than one; what counts is how far they reach.
            self.pace.learn(row.ahead[row.drafts - 1][0] - row.steps if row.drafts else 0, now.get("taken", 0))
        made = [now["drafts"] for now in status if "drafts" in now]
        if made:  # rows whose blocks end with every step have nothing to draft; asking costs all the same
            self.futile = 0 if any(made) else min(2 * self.futile + 1, LONGEST_REST)
            self.rest = self.futile
        versions = 1 + max(row.drafts for row in rows)
        self.pace.timed(self.load, versions, seconds["forward"] + seconds.get("refresh", 0.0), seconds["sampler"])

    def note(self, row: Row, status: dict[str, int]) -> None:
        """The drafts a row has now, as reported."""
        number = status.get("drafts", 0)
        row.ahead = [(status[f"steps{place}"], status[f"block_steps{place}"]) for place in range(number)]

    def _evaluate(self, turn: StepInputs, drafts: Drafts | None, states: dict[str, Any]) -> Answers:
        """One forward of all versions; of the rows alone when there is no draft."""
        decoder, batch, run = self.decoder, turn.batch, self.decoder.forward
        canvas, count = batch.canvas, turn.most
        if self.how.spans_blocks:
            count = decoder.longest + self.beyond
        if drafts is None or not any(row.drafts for row in batch.rows):
            wanted = self._shown(turn.wanted, turn.ahead, turn.plan.fed)
            positions = pack_positions(wanted, canvas.columns, decoder.most(batch, count))
            here = turn.eligible.gather(1, positions)
            proposal = run(canvas, turn.blocks, turn.plan, positions, here, states).proposal
            first = torch.arange(len(batch.rows), device=positions.device)
            asked = None if turn.ahead is None else turn.wanted.gather(1, positions)
            return Answers(positions, here, proposal, asked, first, None, turn.plan.counts)
        versions = self._versions(turn, drafts)
        many, blocks = versions.canvas, versions.blocks
        eligible = many.masked & blocks.block
        feeds, counts, fed, slots = batch.cache.spread(versions)
        wanted = self._shown(versions.wanted, versions.ahead, fed)
        positions = pack_positions(wanted, canvas.columns, decoder.most(batch, count))
        here = eligible.gather(1, positions)
        sets = []
        for number, feed in enumerate(feeds):
            run.watch.mark("refresh" if number or not slots else "forward")
            if self.how.layout == "tree" and number == 0 and slots:
                order = beside([versions.counts[slot] for slot in slots], positions.device)
                sets.append(along_sequence(run, many, feed, order))
            else:
                sets.append(run.feed(many, feed)[0])
        run.watch.mark("sampler")
        proposal = run.propose(many, blocks, Hidden(feeds, tuple(sets), many), positions, here, states)
        numbers = torch.tensor([row.drafts for row in batch.rows], device=positions.device)
        asked = None if versions.ahead is None else versions.wanted.gather(1, positions)
        return Answers(positions, here, proposal, asked, versions.first, numbers, counts)

    def _shown(
        self, wanted: Bool[Tensor, "V W"], ahead: Bool[Tensor, "V W"] | None, fed: Bool[Tensor, "V W"] | None
    ) -> Bool[Tensor, "V W"]:
        """Positions to propose for; behind the block those whose rows are fed anyway."""
        if ahead is None or fed is None:
            return wanted if ahead is None else wanted | ahead
        columns = torch.arange(fed.shape[1], device=fed.device).expand_as(fed)
        return wanted | (ahead & fed.gather(1, self.decoder.model.source(columns)))

    def _versions(self, turn: StepInputs, drafts: Drafts) -> Branches:
        """Every row and those of its drafts that can be evaluated now."""
        batch, device = turn.batch, drafts.tokens.device
        owner: list[int] = []
        place: list[int] = []
        first: list[int] = []
        levels: dict[int, list[int]] = {}
        for index, row in enumerate(batch.rows):
            first.append(len(owner))
            owner.append(index)
            place.append(-1)
            for number, (steps, _) in enumerate(row.ahead[: row.drafts]):
                levels.setdefault(steps - row.steps, []).append(len(owner))
                owner.append(index)
                place.append(number)
        slot, nth, starts = (torch.tensor(numbers, device=device) for numbers in (owner, place, first))
        itself, draft = nth < 0, nth.clamp_min(0)
        tokens = torch.where(itself[:, None], batch.canvas.tokens[slot], drafts.tokens[slot, draft])
        many = canvas_of(batch.canvas, tokens, slot)
        blocks = blocks_from(
            torch.where(itself[:, None], counters(turn.blocks)[slot], drafts.block_states[slot, draft]), many
        )
        above = torch.where(itself, 0, drafts.parent[slot, draft])
        wanted, _ = self.decoder.wanted(many, blocks, many.masked & blocks.block)
        return Branches(
            canvas=many,
            blocks=blocks,
            wanted=wanted,
            ahead=self.ahead(many, blocks),
            owner=slot,
            parent=starts[slot] + above,
            first=starts,
            levels=tuple(torch.tensor(levels[depth], device=device) for depth in sorted(levels)),
            counts=[1 + row.drafts for row in batch.rows],
        )

    def _walk(
        self,
        turn: StepInputs,
        answers: Answers,
        drafts: Drafts | None,
        forwards: Int[Tensor, " B"],
        states: dict[str, Any],
    ) -> VerifiedSteps:
        """Step from the answers for as long as the state arrived at is one that was evaluated."""
        decoder, canvas, most = self.decoder, turn.batch.canvas, self._most(turn)
        blocks, opened = turn.blocks, turn.opened
        version, taken = answers.first, torch.zeros_like(answers.first)
        alive = torch.ones_like(version, dtype=torch.bool)
        path, steps, block_states = [version], [], []
        deepest = max((row.ahead[row.drafts - 1][0] - row.steps for row in turn.batch.rows if row.drafts), default=0)
        for number in range(deepest + 1):
            view = answers.view(canvas, blocks, version, most)
            view = decoder.narrow(view.with_(eligible=view.eligible & alive[:, None]), opened, states)
            trial, blocks = dict(states), view.blocks
            view, chosen, _ = decoder.select(view, None, trial)
            chosen = chosen & alive[:, None]
            canvas.commit(view.positions, view.proposal.token, chosen, forwards, view.proposal.prob)
            for role in decoder.sampler.parts:
                states[role] = renew_state(states[role], trial[role], alive)
            blocks = decoder.cut(view, chosen, alive).blocks
            block_states.append(counters(blocks))
            taken = torch.where(alive, number, taken)
            steps.append((view, chosen))
            if number == deepest:
                break
            alive, blocks, opened = self._onward(canvas, blocks, alive, states)
            found, following = _match(answers, drafts, version, canvas, blocks)
            alive = alive & found
            if not bool(alive.any()):  # waiting for the device is cheaper than a step for nobody
                break
            version = torch.where(alive, following, version)
            path.append(version)
        rows = torch.arange(taken.shape[0], device=taken.device)
        return VerifiedSteps(
            steps,
            torch.stack(path, dim=1),
            taken,
            blocks_from(torch.stack(block_states, dim=1)[rows, taken], canvas),
        )

    def _onward(
        self, canvas: Canvas, blocks: BlockState, alive: Bool[Tensor, " B"], states: dict[str, Any]
    ) -> tuple[Bool[Tensor, " B"], BlockState, Bool[Tensor, " B"] | None]:
        """The clock of the step that comes next, in the next block where this one is full; and which rows go on."""
        if not self.how.spans_blocks:
            return alive, later(blocks, 1), None
        stop = self.decoder.sampler.stop
        if stop is not None:
            closed = alive & ~(canvas.masked & blocks.block).any(dim=1)
            alive = alive & (stop.after_block(canvas, blocks, closed) < 0)
        blocks, opened = self.decoder.open_blocks(canvas, later(blocks, 1), states)
        return alive, blocks, opened

    def _draft(
        self, turn: StepInputs, answers: Answers, walk: VerifiedSteps, length: int, states: dict[str, Any]
    ) -> Drafts:
        """The next drafts, from the answers to the present state and to those that led to it."""
        chains, rows = [], torch.arange(walk.path.shape[0], device=walk.path.device)
        for back in range(min(self.how.sources, walk.path.shape[1])):
            at = walk.taken - back
            view = answers.guess(turn.batch.canvas, walk.last, walk.path[rows, at.clamp_min(0)], self._most(turn))
            chain = self.draftsman.chain(view, states, length - 1)
            chains.append(chain._replace(there=chain.there & (at >= 0)[:, None]))
        return merge(chains)

    def _most(self, turn: StepInputs) -> int:
        """The most positions a row may commit at a step."""
        return self.decoder.longest if self.how.spans_blocks else turn.most


def _match(
    answers: Answers, drafts: Drafts | None, version: Int[Tensor, " B"], canvas: Canvas, blocks: BlockState
) -> tuple[Bool[Tensor, " B"], Int[Tensor, " B"]]:
    """Whether the state arrived at from ``version`` was evaluated, and as which version."""
    assert drafts is not None
    if answers.numbers is None:
        return torch.zeros_like(version, dtype=torch.bool), version
    nth = torch.arange(drafts.tokens.shape[1], device=version.device)
    there = (nth < answers.numbers[:, None]) & (answers.first[:, None] + drafts.parent == version[:, None])
    same = (drafts.tokens == canvas.tokens[:, None])[..., : canvas.scratch].all(dim=2)
    same = same & (drafts.block_states == counters(blocks)[:, None]).all(dim=2)
    right = there & same
    return right.any(dim=1), answers.first + 1 + right.long().argmax(dim=1)
