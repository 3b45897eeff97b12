"""What follows from one forward of every row and its drafts: the steps that an undrafted run would have taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule, offers
from dlm.engine.plan import Branches, PackedBranches
from dlm.engine.proposal import Proposal
from dlm.engine.sampler_run import SamplerRun, SamplerState
from dlm.engine.step import BlockState, State, StepView
from dlm.engine.stepper import StepInputs
from dlm.speculation.drafts import COUNTERS, counters, nobody


@dataclass(frozen=True)
class Answers:
    """What one forward said of every row and its drafts.

    Attributes:
        positions, eligible: as in a :class:`dlm.engine.step.StepView`, per branch. ``[V, N]``
        proposal: each ``[V, N]``
        asked: entries an undrafted forward would show too; None: all of them. ``[V, N]``
        branches: what was evaluated; None: the rows as they stand.
        any_way: whether it does not matter how a row came to a branch.
        counts: positions fed for each row, known on the host.
    """

    positions: Int[Tensor, "V N"]
    eligible: Bool[Tensor, "V N"]
    proposal: Proposal
    asked: Bool[Tensor, "V N"] | None
    branches: Branches | None
    counts: Sequence[int]
    any_way: bool = False

    @property
    def order(self) -> PackedBranches:
        """How the branches lie."""
        counts = [1] * self.positions.shape[0] if self.branches is None else self.branches.counts
        return PackedBranches.of(tuple(counts), self.positions.device)

    @property
    def deepest(self) -> int:
        """The most steps that a branch is ahead of its row."""
        return 0 if self.branches is None else max(self.branches.depths)

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
        view: of all of them together, its block state that of each row's last one.
        chosen: what was committed.
        kept: the branch each row's last step started from. ``[B]``
        taken: steps beyond the first of each row. ``[B]``
        left: scores of what each branch's own step does not commit, -inf elsewhere; None: nobody asked, or steps were
            taken one by one. ``[V, N]``
    """

    view: StepView
    chosen: Bool[Tensor, "B N"]
    kept: Int[Tensor, " B"]
    taken: Int[Tensor, " B"]
    left: Float[Tensor, "V N"] | None


@dataclass(frozen=True)
class Verifier:
    """Steps from answers for as long as the state arrived at is one that was evaluated.

    Attributes:
        rules: whose steps they are.
        spans_blocks: whether drafts go over the border of a block.
        ranks: whether the scores of what is left are asked for.
        timeless: whether a step follows from what a branch holds and was answered; one that commits what two drafts do
            between them then arrives at the second.
        part: ``subset``: a step also arrives at a draft that holds a part of what it commits; the rest is decided anew
            by the answers to that draft. ``values``: a step makes way for a draft whose every token it proposes,
            whether it would have committed it or not.
    """

    rules: SamplerRun
    spans_blocks: bool
    ranks: bool
    timeless: bool
    part: str | None = None

    def steps(
        self, inputs: StepInputs, answers: Answers, forwards: Int[Tensor, " B"], state: SamplerState
    ) -> VerifiedSteps:
        """All of them, committed; ``forwards``: those of each row before this one."""
        narrows = inputs.opened is not None and offers(self.rules.sampler.blocks, BlockSchedule.narrow)
        remembers = any(map(_remembers, (state.score, state.budget, state.selector, *state.modifiers)))
        if self.spans_blocks or self.rules.shortens or remembers or (narrows and answers.branches is not None):
            return self._one_by_one(inputs, answers, forwards, state)
        return self._at_once(inputs, answers, forwards, state)

    def _at_once(
        self, inputs: StepInputs, answers: Answers, forwards: Int[Tensor, " B"], state: SamplerState
    ) -> VerifiedSteps:
        """Where nothing is remembered from step to step, every branch's step is chosen as if it were reached, in one
        go; those count whose way there has come true."""
        rules, canvas, many, order = self.rules, inputs.batch.canvas, answers.branches, answers.order
        at, blocks = (canvas, inputs.blocks) if many is None else (many.canvas, many.blocks)
        view = StepView(at, blocks, answers.positions, answers.eligible, answers.proposal, most=inputs.most)
        view, chosen, _ = rules.select(rules.narrow(view, inputs.opened, state), state.copy())
        scores, left = view.scores, None
        assert scores is not None
        if self.ranks:
            left = torch.where(chosen, constant((-torch.inf,), chosen.device, scores.dtype)[0], scores)
        blocks, first = view.blocks if many is None else inputs.blocks, order.grid[:, 0]
        if many is None:
            taken, kept = torch.zeros_like(first), first
        else:
            skips = self.timeless and answers.any_way
            if self.part == "values":
                reached = _reached(view, view.eligible, many, order, part=True)
            else:
                reached = (_reached_any_way(self.part is not None) if skips else _reached)(view, chosen, many, order)
            if rules.surplus:  # no step from a state that holds all that was asked for
                reached = reached & (order.itself | at.wanting)
            depth = constant(tuple(depth + 1 for depth in many.depths), first.device)
            # One branch of each depth at most is reached: states that follow one another differ.
            furthest, place = (order.by_row(reached) * order.by_row(depth)).max(dim=1)
            taken = order.by_row(reached).sum(dim=1) - 1 if skips else furthest - 1
            kept, come = first + place, reached[:, None]
            if self.part is not None:  # what the last draft does not hold is its own to decide
                own = torch.arange(len(reached), device=kept.device)
                last = kept[many.owner]
                after = last if self.part == "subset" else torch.minimum(own + 1, last)
                held = (many.canvas.tokens != canvas.mask_id)[after].gather(1, view.positions)
                come = come & (held | (last == own)[:, None])
                if self.part == "values":
                    chosen = torch.where((last == own)[:, None], chosen, view.eligible)
            prob = torch.where(come, view.proposal.prob, constant((0,), first.device)[0])  # no NaN of another's
            proposal, chosen = replace(view.proposal, prob=prob), chosen & come
            view = replace(view, eligible=view.eligible & come, proposal=proposal)
            blocks = blocks.later(taken)

        def beside(entries: Tensor) -> Tensor:
            return order.by_row(entries).flatten(1, 2)

        view = StepView(
            canvas, blocks, beside(view.positions), beside(view.eligible), view.proposal.map(beside),
            beside(scores), most=inputs.most,
        )  # fmt: skip
        chosen = beside(chosen)
        canvas.commit(view.positions, view.proposal.token, chosen, forwards, view.proposal.prob)
        return VerifiedSteps(view, chosen, kept, taken, left)

    def _one_by_one(
        self, inputs: StepInputs, answers: Answers, forwards: Int[Tensor, " B"], state: SamplerState
    ) -> VerifiedSteps:
        """Each step on the canvas, with what the parts remember of the one before."""
        rules, canvas = self.rules, inputs.batch.canvas
        most = rules.longest if self.spans_blocks else inputs.most
        blocks, opened, branch = inputs.blocks, inputs.opened, answers.order.grid[:, 0]
        taken, alive = torch.zeros_like(branch), torch.ones_like(branch, dtype=torch.bool)
        steps, passed = [], []
        for number in range(answers.deepest + 1):
            view = answers.view(canvas, blocks, branch, most)
            view = rules.narrow(replace(view, eligible=view.eligible & alive[:, None]), opened, state)
            trial, blocks = state.copy(), view.blocks
            view, chosen, _ = rules.select(view, trial)
            chosen = chosen & alive[:, None]
            canvas.commit(view.positions, view.proposal.token, chosen, forwards, view.proposal.prob)
            state.adopt(trial, alive)
            blocks = rules.shorten(view, chosen, alive).blocks
            passed.append(blocks)
            taken = torch.where(alive, number, taken)
            steps.append((view, chosen))
            if number == answers.deepest:
                break
            alive, blocks, opened = self._onward(canvas, blocks, alive, state)
            found, following = _match(answers, branch, canvas, blocks, self.timeless and answers.any_way)
            alive = alive & found
            if rules.surplus:
                alive = alive & canvas.wanting
            if nobody(alive):
                break
            branch = torch.where(alive, following, branch)
        last = passed[0]
        for number, blocks in enumerate(passed[1:], start=1):
            last = last.renewed(blocks, taken == number)
        (view, chosen), *others = steps
        view = replace(view.beside([view for view, _ in others]), blocks=last)
        return VerifiedSteps(view, torch.cat([chosen, *(more for _, more in others)], dim=1), branch, taken, None)

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


# Those of a block state's numbers that do not count steps.
_PLACES = [number for number, name in enumerate(COUNTERS) if name not in ("step", "block_step")]


@lru_cache(maxsize=1024)
def constant(
    numbers: tuple[int | float, ...], device: torch.device, dtype: torch.dtype | None = None
) -> Shaped[Tensor, " K"]:
    """Numbers that many steps need again, copied to the device once. To be read only."""
    return torch.tensor(numbers, device=device, dtype=dtype)


def _reached(
    view: StepView, chosen: Bool[Tensor, "V N"], many: Branches, order: PackedBranches, part: bool = False
) -> Bool[Tensor, " V"]:
    """Branches that are what the step from the one before leads to, or a part of it, on the whole way from the row."""
    target = torch.where(chosen, view.positions, view.canvas.columns[-1])
    after = many.canvas.tokens.scatter(1, target, view.proposal.token)
    same = after[many.parent] == many.canvas.tokens
    if part:
        same = same | (many.canvas.tokens == view.canvas.mask_id)
    reached = same[:, :-1].all(dim=1) | order.itself
    above, seen = many.parent, 1
    while seen < max(many.depths):  # each round looks twice as far back
        reached = reached & reached[above]
        above, seen = above[above], 2 * seen
    return reached


def _reached_any_way(subset: bool) -> Callable[..., Bool[Tensor, " V"]]:
    """The same where a step may skip drafts: each branch leads to the one that holds what its step makes, or to the
    last one that holds a part of it (``subset``)."""

    def reached(
        view: StepView, chosen: Bool[Tensor, "V N"], many: Branches, order: PackedBranches
    ) -> Bool[Tensor, " V"]:
        target = torch.where(chosen, view.positions, view.canvas.columns[-1])
        after = order.by_row(many.canvas.tokens.scatter(1, target, view.proposal.token))[..., :-1]
        states, there = order.by_row(many.canvas.tokens)[..., :-1], order.by_row(~order.itself)
        same = after[:, :, None] == states[:, None]
        if subset:
            same = same | (states == view.canvas.mask_id)[:, None]
        leads = same.all(dim=-1) & there[:, None] & order.there[..., None]
        if subset:
            number = torch.arange(leads.shape[1], device=leads.device)
            leads = leads & (number > number[:, None])
            leads = leads & (number == torch.where(leads, number, -1).amax(dim=2, keepdim=True))
        come = ~there & order.there
        for _ in range(max(many.depths)):
            come = come | (come[..., None] & leads).any(dim=1)
        return order.of_branches(come)

    return reached


def _remembers(state: State) -> bool:
    return any(map(_remembers, state)) if isinstance(state, tuple) else state is not None


def _match(
    answers: Answers, branch: Int[Tensor, " B"], canvas: Canvas, blocks: BlockState, any_way: bool
) -> tuple[Bool[Tensor, " B"], Int[Tensor, " B"]]:
    """Whether the state arrived at from ``branch`` was evaluated, and as which branch."""
    many, order = answers.branches, answers.order
    assert many is not None
    same = (many.canvas.tokens == canvas.tokens[many.owner])[:, :-1].all(dim=1)
    places = (counters(many.blocks) == counters(blocks)[many.owner])[:, _PLACES if any_way else slice(None)]
    same = same & places.all(dim=1) & ~order.itself
    right = order.by_row(same if any_way else same & (many.parent == branch[many.owner]))
    return right.any(dim=1), order.grid[:, 0] + right.long().argmax(dim=1)
