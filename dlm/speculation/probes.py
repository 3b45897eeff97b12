"""Probes: what would the model say if some tokens were there, or were masked again?

A probe proposes versions of every row. One forward answers for the row and all of them, over any cache that branches
can look at; the probe is shown the answers side by side and says which version the row becomes and what is committed.
Everything else (the selector, the laws, the counters) is as in any other step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, pack_positions, versions
from dlm.engine.forward import Hidden
from dlm.engine.interfaces import Part, Speculator, offers
from dlm.engine.plan import Branches, PackedBranches
from dlm.engine.proposal import Proposal
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerState
from dlm.engine.step import BlockState, State, StepView
from dlm.engine.stepper import PlainStepper, StepInputs, StepOutcome, Stepper, StepTools
from dlm.errors import SettingsError
from dlm.speculation.verification import constant


class Edits(NamedTuple):
    """What each version of a row differs in; the scratch column of the canvas stands for no difference.

    A token may be put in at an open position of the block, and a committed one of the block taken back or replaced
    where the probe says that it takes back; whatever else is asked for is left out.

    Attributes:
        position: where. ``[B, K, E]``
        token: the token put in, or the mask id to take the present one back. ``[B, K, E]``
        prob: how sure the model was of it, which becomes the confidence of its commit. ``[B, K, E]``
    """

    position: Int[Tensor, "B K E"]
    token: Int[Tensor, "B K E"]
    prob: Float[Tensor, "B K E"]


@dataclass(frozen=True)
class VersionViews:
    """The answers to every version of every row, the row as it stands first (version 0).

    Attributes:
        canvas, blocks: the rows as they stand.
        positions: the positions proposed for, alike for all versions. ``[B, N]``
        exists: which versions there are. ``[B, K+1]``
        edited: where a version differs from the row. ``[B, K+1, N]``
        eligible: where it has an open position of the block. ``[B, K+1, N]``
        proposal: what the model says of it. Each ``[B, K+1, N]``
        own: the probability it gives to the token of the row; None: :attr:`Probe.reads_own` is off. ``[B, K+1, N]``
    """

    canvas: Canvas
    blocks: BlockState
    positions: Int[Tensor, "B N"]
    exists: Bool[Tensor, "B V"]
    edited: Bool[Tensor, "B V N"]
    eligible: Bool[Tensor, "B V N"]
    proposal: Proposal
    own: Float[Tensor, "B V N"] | None = None


class Choice(NamedTuple):
    """What a row becomes.

    Attributes:
        version: the version it becomes; its edits are committed, or taken back. One that does not exist counts as 0.
            ``[B]``
        commit: positions committed whatever the selector says; None: none. ``[B, N]``
        only: positions that the selector may choose from; None: all that are eligible. ``[B, N]``
        part: of the version's edits those that are made; None: all. ``[B, N]``
        memory: what :meth:`Probe.learn` gets; None: the memory as it was.
    """

    version: Int[Tensor, " B"]
    commit: Bool[Tensor, "B N"] | None = None
    only: Bool[Tensor, "B N"] | None = None
    part: Bool[Tensor, "B N"] | None = None
    memory: State = None


class Probe(Part, Speculator):
    """Asks what-if questions. A probe is a frozen dataclass of settings, like every part."""

    @property
    def versions(self) -> int:
        """K, the most versions it proposes of a row, beside the row itself."""
        raise NotImplementedError

    @property
    def follows(self) -> Sequence[int]:
        """For each of the K versions the one that it follows, with whose edits it begins and whose keys it sees as if
        they had been computed one forward earlier; 0: it is made of the row itself. Empty: all are."""
        return ()

    @property
    def remasks(self) -> bool:
        """Whether a version may take tokens back."""
        return False

    @property
    def reads_own(self) -> bool:
        """Whether :meth:`choose` reads ``views.own``, which costs a second pass of the head."""
        return False

    def asks(self, state: State) -> Int[Tensor, " B"] | None:
        """How many versions each row has at its next step, by the memory after this one; the host hears it with the
        step's report. None: :meth:`versions_of` knows."""

    def versions_of(self, row: Row) -> int:
        """How many versions the row has at its next step, known on the host: as many as its block has open positions,
        so none where it begins a block."""
        return min(self.versions, row.block_open)

    def propose(self, canvas: Canvas, blocks: BlockState, state: State) -> Edits:
        """The versions of every row; those beyond :meth:`versions_of` are not asked about."""
        raise NotImplementedError

    def choose(self, views: VersionViews, state: State) -> Choice:
        """What every row becomes."""
        raise NotImplementedError

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> State:
        """The memory after a step, from what was known and what was committed."""
        return state

    def clashes(self, sampler: Sampler) -> str | None:
        """What would have to be remembered, seen or undone for every version is refused."""
        clashes = {
            "a logit transform with a memory": any(offers(part, Part.init) for part in sampler.transforms),
            "guidance": sampler.guidance > 0,
            "an early exit": sampler.exit is not None,
            "a reviser": sampler.reviser is not None,
            "a selector that rewrites": sampler.selector.rewrites,
            "a part that reads the previous step's distribution, attention or a shadow block": bool(
                {"kl", "attention", "shadow"} & sampler.needs
            ),
        }
        found = [what for what, there in clashes.items() if there]
        return f"look-ahead branches cannot be combined with {' and '.join(found)}: remove one" if found else None

    def stepper(self, tools: StepTools) -> ProbingStepper:
        """The probe at work."""
        return ProbingStepper(self, tools)


class ProbingStepper(Stepper):
    """One forward of every row and its versions, then one step from the version that the probe has chosen."""

    def __init__(self, probe: Probe, tools: StepTools) -> None:
        self.probe, self.rules, self.forward = probe, tools.rules, tools.forward
        self.plain = PlainStepper(tools)
        self.told: dict[int, int] | None = {} if offers(probe, Probe.asks) else None
        parents = list(probe.follows) or [0] * probe.versions
        self.parents, self.depths = [0, *parents], [0]
        for version, parent in enumerate(parents, start=1):
            if not 0 <= parent < version:
                raise SettingsError(f"{type(probe).__name__}: version {version} follows {parent}: it must come before")
            self.depths.append(self.depths[parent] + 1 if parent else 0)

    def take(self, inputs: StepInputs, state: SamplerState) -> StepOutcome:
        """A step; rows that a cache recomputes whole have no versions in it."""
        batch, plan = inputs.batch, inputs.plan
        counts = [
            1 + (0 if slot in plan.refreshed else min(self.probe.versions, self._versions_of(row)))
            for slot, row in enumerate(batch.rows)
        ]
        alone = max(counts) == 1
        outcome = self.plain.take(inputs, state) if alone else self._probed(inputs, state, counts)
        state.probe = self.probe.learn(outcome.view, outcome.chosen, state.probe)
        asks = self.probe.asks(state.probe)
        return outcome if asks is None else replace(outcome, report={"asks": asks})

    def booked(self, rows: Sequence[Row], status: Sequence[Mapping[str, int]], seconds: Mapping[str, float]) -> None:
        if self.told is not None:
            self.told = {row.job.index: now["asks"] for row, now in zip(rows, status, strict=True)}

    def _versions_of(self, row: Row) -> int:
        return self.probe.versions_of(row) if self.told is None else self.told.get(row.job.index, 0)

    def _probed(self, inputs: StepInputs, state: SamplerState, counts: list[int]) -> StepOutcome:
        batch, canvas, blocks = inputs.batch, inputs.batch.canvas, inputs.blocks
        edits = self._allowed(self.probe.propose(canvas, blocks, state.probe), inputs)
        tokens, probs = self._versions(edits, canvas)
        edited = (tokens != canvas.tokens[:, None]) & canvas.writable[:, None]
        order = PackedBranches.of(tuple(counts), tokens.device, len(self.parents))
        branches = self._branches(inputs, tokens, edited, order, counts)
        plan = batch.cache.spread(branches)

        wanted, most = inputs.wanted, self.rules.most(batch.rows, inputs.most)
        if self.probe.remasks:
            wanted, most = wanted | edited.any(dim=1), most + edits.position[0].numel()
        positions = pack_positions(wanted, canvas.columns, min(most, canvas.scratch))
        everywhere = versions(positions, branches.owner)
        here = (branches.wanted & branches.canvas.masked).gather(1, everywhere)
        hidden = Hidden(plan.feeds, self.forward.branch_states(branches, plan, packed=False), branches.canvas)
        proposal = self.forward.propose(branches.canvas, branches.blocks, hidden, everywhere, here, state.copy())

        at = positions[:, None].expand(-1, len(self.parents), -1)
        itself = constant((1, *[0] * self.probe.versions), tokens.device, torch.bool)
        exists = order.there & (edited.any(dim=2) | itself)
        own = None
        if self.probe.reads_own:
            before = versions(canvas.tokens, branches.owner).gather(1, everywhere)
            own = self.forward.shares(hidden.rows(self.forward.shift, everywhere), before.flatten())
            own = order.by_row(own.view(before.shape))
        # Nothing is edited in the scratch column, where fillers point.
        views = VersionViews(
            canvas, blocks, positions, exists, edited.gather(2, at), order.by_row(here), proposal.map(order.by_row), own
        )
        choice = self.probe.choose(views, state.probe)
        state.probe = state.probe if choice.memory is None else choice.memory
        version = choice.version[:, None]
        kept = (version * exists.gather(1, version))[:, 0]
        outcome = self._become(inputs, state, views, choice._replace(version=kept), (tokens, probs))
        kept = kept if choice.part is None else torch.zeros_like(kept)  # the row is more like what it was
        # Last: what the store holds must not run ahead of the canvas when a step has to be taken again.
        batch.cache.accept(order.grid.gather(1, kept[:, None])[:, 0])
        return replace(outcome, counts=plan.counts)

    def _allowed(self, edits: Edits, inputs: StepInputs) -> Edits:
        """Tokens at open positions of the block; at its committed ones others and masks, where the probe takes back."""
        canvas, blocks, where = inputs.batch.canvas, inputs.blocks, edits.position.flatten(1)
        open_ = inputs.batch.open_in(blocks).gather(1, where).view_as(edits.position)
        puts = edits.token != canvas.mask_id
        right = open_ & puts
        if self.probe.remasks:
            right = right | (blocks.block & canvas.writable & ~canvas.masked).gather(1, where).view_as(right)
        return edits._replace(position=torch.where(right, edits.position, canvas.columns[-1]))

    def _versions(self, edits: Edits, canvas: Canvas) -> tuple[Int[Tensor, "B V W"], Float[Tensor, "B V W"]]:
        """The tokens of every version, and how sure the model was of those put in."""
        tokens = canvas.tokens[:, None].repeat(1, len(self.parents), 1)
        probs = torch.full_like(tokens, torch.nan, dtype=edits.prob.dtype)
        for made, new in ((tokens, edits.token), (probs, edits.prob)):
            made[:, 1:].scatter_(2, edits.position, new)
            for number, parent in enumerate(self.parents):
                if parent:  # it begins with what another version has
                    made[:, number] = made[:, parent]
                    made[:, number].scatter_(1, edits.position[:, number - 1], new[:, number - 1])
        return tokens, probs

    def _branches(
        self,
        inputs: StepInputs,
        tokens: Int[Tensor, "B V W"],
        edited: Bool[Tensor, "B V W"],
        order: PackedBranches,
        counts: list[int],
    ) -> Branches:
        """The versions that are asked about."""
        owner, device = order.owner, tokens.device
        many = inputs.batch.canvas.branched(order.of_branches(tokens), owner)
        blocks = inputs.blocks.of(owner)
        depths, parents, first = [], [], 0
        for count in counts:
            depths += self.depths[:count]
            parents += [first + (above or version) for version, above in enumerate(self.parents[:count])]
            first += count
        if any(depths):
            blocks = blocks.later(constant(tuple(depths), device))
        return Branches(
            canvas=many,
            blocks=blocks,
            wanted=(versions(inputs.eligible, owner) | order.of_branches(edited)) & blocks.block,
            ahead=None,
            owner=owner,
            parent=constant(tuple(parents), device),
            first=order.grid[:, 0],
            depths=depths,
            counts=counts,
            remasks=self.probe.remasks,
        )

    def _become(
        self,
        inputs: StepInputs,
        state: SamplerState,
        views: VersionViews,
        choice: Choice,
        made_of: tuple[Int[Tensor, "B V W"], Float[Tensor, "B V W"]],
    ) -> StepOutcome:
        """The step from the chosen versions: what they put in is committed with it, what they took back is open."""
        canvas, version = views.canvas, choice.version
        rows = constant(tuple(range(version.shape[0])), version.device)
        edited, eligible = views.edited[rows, version], views.eligible[rows, version]
        if choice.part is not None:
            eligible = torch.where(edited & ~choice.part, views.eligible[:, 0], eligible)
            edited = edited & choice.part
        proposal = views.proposal.gather(rows, version)
        tokens, probs = (x[rows[:, None], version[:, None], views.positions] for x in made_of)
        forced = edited & (tokens != canvas.mask_id)
        proposal = replace(
            proposal,
            token=torch.where(forced, tokens, proposal.token),
            prob=torch.where(forced, probs.to(proposal.prob.dtype), proposal.prob),
        )
        if self.probe.remasks:
            again = torch.zeros_like(canvas.writable).scatter(1, views.positions, edited & ~forced)
            again[:, canvas.scratch] = False
            self.rules.remask(canvas, again, state)
        if choice.commit is not None:
            forced = forced | (choice.commit & eligible)
        free = eligible & ~forced
        view = StepView(
            canvas, inputs.blocks, views.positions, free if choice.only is None else free & choice.only, proposal,
            most=inputs.most,
        )  # fmt: skip
        return self.plain.settle(inputs, view, state, forced)
