"""SOAR: where nothing is sure, several orders are followed side by side until something is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.proposal import Proposal
from dlm.engine.step import BlockState, StepView, renew_state
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews
from samplers.settings import at_least, within

# Each is a further row of every forward, and they are compared pair by pair.
MOST_BEAMS = 8
# Who differs from the best one in more positions is dropped.
MOST_APART = 16


class Beam(NamedTuple):
    """The versions of a row that go on beside it, the best first.

    Attributes:
        tokens, prob: what stands in each, and how sure the model was when it was put in. ``[B, K, W]``
        score: how far each is ahead of the row; -inf: there is none. ``[B, K]``
        settled: rows whose beam the step has chosen already. ``[B]``
    """

    tokens: Int[Tensor, "B K W"]
    prob: Float[Tensor, "B K W"]
    score: Float[Tensor, "B K"]
    settled: Bool[Tensor, " B"]


class Grown(NamedTuple):
    """How a beam goes on: the version the row becomes, what it commits, and the beam behind it."""

    version: Int[Tensor, " B"]
    commit: Bool[Tensor, "B N"]
    beam: Beam


@dataclass(frozen=True)
class PositionBeam(Probe):
    """A beam of ``beams`` versions of every row, which differ in the order of their commits (SOAR, arXiv 2602.10953,
    and the authors' code). Each version with a position above ``threshold`` commits up to ``most`` such, the surest;
    any other one is followed by as many versions as the beam has, with one more token each, at its surest positions.
    Of all that come of it, the doubles left out, those go on whose commits had the largest sum of probabilities; where
    a version was sure of something, the best one alone. The row is the best one.

    The beam ends with its block, and a version that differs from the best one in more than 16 positions is dropped.

    Raises:
        SettingsError: fewer than two beams or too many, a threshold outside (0, 1.01], ``most`` below 1.
    """

    beams: int = 2
    threshold: float = 0.95
    most: int = 5

    remasks = True

    def __post_init__(self) -> None:
        if not 2 <= self.beams <= MOST_BEAMS:
            raise SettingsError(
                f"beams must be from 2 to {MOST_BEAMS}, each a further row of a forward, got {self.beams}; without a"
                " beam use threshold"
            )
        within("(0, 1.01]", threshold=self.threshold)
        at_least(1, most=self.most)

    @property
    def versions(self) -> int:
        return self.beams - 1

    def asks(self, state: Beam) -> Int[Tensor, " B"]:
        return (state.score > -torch.inf).sum(dim=1)

    def init(self, canvas: Canvas) -> Beam:
        tokens = canvas.tokens[:, None].repeat(1, self.versions, 1)
        prob = torch.zeros_like(tokens, dtype=torch.float64)
        return Beam(tokens, prob, torch.full_like(prob[..., 0], -torch.inf), torch.zeros_like(canvas.start) > 0)

    def propose(self, canvas: Canvas, blocks: BlockState, state: Beam) -> Edits:
        other = (state.tokens != canvas.tokens[:, None]) & canvas.writable[:, None]
        other = other & (state.score > -torch.inf)[:, :, None]
        position = pack_positions(other.flatten(0, 1), canvas.columns, MOST_APART).unflatten(0, other.shape[:2])
        return Edits(position, state.tokens.gather(2, position), state.prob.gather(2, position))

    def choose(self, views: VersionViews, state: Beam) -> Choice:
        asked = views.exists[:, 1:].any(dim=1)
        score = torch.cat([torch.zeros_like(state.score[:, :1]), state.score], dim=1)
        score = score.masked_fill(~views.exists, -torch.inf)
        tokens = torch.cat([views.canvas.tokens[:, None], state.tokens], dim=1)
        prob = torch.cat([views.canvas.commit_confidence[:, None].double(), state.prob], dim=1)
        grown = self._grow(
            views.canvas, Beam(tokens, prob, score, asked), views.positions, views.proposal, views.eligible
        )
        # A row without a beam is the selector's.
        return Choice(
            torch.where(asked, grown.version, 0),
            commit=grown.commit & asked[:, None],
            only=views.eligible[:, 0] & ~asked[:, None],
            memory=renew_state(state, grown.beam, asked),
        )

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: Beam) -> Beam:
        canvas = view.canvas
        before = canvas.tokens.masked_fill(view.marks(chosen), canvas.mask_id)[:, None]
        alone = Beam(
            before, canvas.commit_confidence[:, None].double(), torch.zeros_like(state.score[:, :1]), ~state.settled
        )
        once = view.proposal.map(lambda x: x[:, None])
        begun = self._grow(canvas, alone, view.positions, once, view.eligible[:, None]).beam
        beam = renew_state(state, begun, ~state.settled)
        full = ~(view.blocks.block & canvas.masked).any(dim=1, keepdim=True)
        return beam._replace(score=beam.score.masked_fill(full, -torch.inf), settled=torch.zeros_like(state.settled))

    def _grow(
        self,
        canvas: Canvas,
        beam: Beam,
        positions: Int[Tensor, "B N"],
        proposal: Proposal,
        eligible: Bool[Tensor, "B V N"],
    ) -> Grown:
        """What comes of these versions, whose ``score`` is -inf where there is none."""
        rows, many = canvas.rows[:, None], self.beams
        sure = proposal.prob.double().masked_fill(~eligible | (beam.score == -torch.inf)[:, :, None], -torch.inf)
        place = sure.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        above = sure > self.threshold
        parallel = above.any(dim=2)
        number = torch.arange(many, device=sure.device)[:, None]
        single = (place[:, :, None] == number) & (sure > -torch.inf)[:, :, None] & ~parallel[:, :, None, None]
        # [B, V, K, N]: what each of them commits.
        commits = single | ((above & (place < self.most))[:, :, None] & (number == 0))
        gain = (sure.clamp_min(0.0)[:, :, None] * commits).sum(dim=3)
        score = (beam.score[:, :, None] + gain).masked_fill(~commits.any(dim=3), -torch.inf).flatten(1)
        score, order = score.sort(dim=1, descending=True, stable=True)
        version, commits = order // many, commits.flatten(1, 2)[rows, order]

        at = torch.where(commits, positions[:, None], canvas.columns[-1])
        tokens = beam.tokens[rows, version].scatter(2, at, proposal.token[rows, version])
        prob = beam.prob[rows, version].scatter(2, at, sure[rows, version])
        # What stands in the scratch column counts for nothing.
        tokens[:, :, canvas.scratch] = 0
        equal = (tokens[:, :, None] == tokens[:, None]).all(dim=3).tril(-1).any(dim=2)
        kept = ~equal & (score > -torch.inf)
        best_alone = parallel.any(dim=1, keepdim=True)
        kept = kept & (kept.cumsum(dim=1) <= torch.where(best_alone, 1, many))
        kept = kept & ((tokens != tokens[:, :1]).sum(dim=2) <= MOST_APART)
        score = score - score[:, :1].nan_to_num(neginf=0.0)
        first = (~kept).sort(dim=1, stable=True).indices[:, 1:many]
        score = score.masked_fill(~kept, -torch.inf).gather(1, first)
        missing = many - 1 - first.shape[1]
        if missing > 0:
            first = torch.nn.functional.pad(first, (0, missing))
            score = torch.nn.functional.pad(score, (0, missing), value=-torch.inf)
        members = Beam(tokens[rows, first], prob[rows, first], score, torch.ones_like(beam.settled))
        return Grown(version[:, 0], commits[:, 0], members)
