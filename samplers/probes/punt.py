"""Tests of independence: what does not move when others are revealed may be committed with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.proposal import Proposal, Statistic
from dlm.engine.row import Row
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews

# Each is a further row of every forward, and halves what is left to tell apart.
MOST_LEVELS = 10
# Below this, a share of the distribution counts as none.
TINY = 1e-12


class Ranked(NamedTuple):
    """The open positions in the order of their confidence at the last step; the scratch column where there is none.

    Attributes:
        position, token, prob: where, what, and how sure. ``[B, C]``
    """

    position: Int[Tensor, "B C"]
    token: Int[Tensor, "B C"]
    prob: Float[Tensor, "B C"]


@dataclass(frozen=True)
class Independence(Probe):
    """Commit, however unsure they are, the positions whose distribution does not depend on those of the others that
    were surer (PUNT, arXiv 2510.21961).

    The 2^``levels`` surest open positions are numbered by confidence. Version k reveals those with a 0 in bit k of
    their number, and asks about those with a 1: in the highest bit in which two of them differ the surer one is
    revealed and the other asked about. Who moves by more than ``tolerance`` nats under a version is left for later; the
    others are committed together.

    Ours: the paper reveals only who has passed the rounds before, with a forward for each round; here one forward
    answers all rounds, so what is revealed are the proposals and the ranking of the last step, of all. Who has another
    proposal by now was not tested with it and is left, too; where nobody passes the selector chooses. And what moves is
    a lower bound of KL(revealed || row), from the likeliest tokens of both and all others together.

    Raises:
        SettingsError: a negative tolerance, no level or too many.
    """

    tolerance: float = 0.05
    levels: int = 5

    needs = frozenset[Statistic]({"candidates"})

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < float("inf"):
            raise SettingsError(f"tolerance is a divergence in nats, 0 or more, got {self.tolerance}")
        if not 1 <= self.levels <= MOST_LEVELS:
            raise SettingsError(
                f"levels must be from 1 to {MOST_LEVELS}, each a further row of every forward, got {self.levels}"
            )

    @property
    def versions(self) -> int:
        return self.levels

    def versions_of(self, row: Row) -> int:
        # As many bits as the numbers have.
        return (min(row.block_open, 2**self.levels) - 1).bit_length() if row.block_open else 0

    def init(self, canvas: Canvas) -> Ranked:
        nowhere = canvas.start.new_full((canvas.start.shape[0], 2**self.levels), canvas.scratch)
        return Ranked(nowhere, torch.zeros_like(nowhere), torch.zeros_like(nowhere, dtype=torch.float64))

    def propose(self, canvas: Canvas, blocks: BlockState, state: Ranked) -> Edits:
        shown = self._bits(canvas)[None] == 0
        position, token, prob = (x[:, None].expand(-1, self.levels, -1) for x in state)
        return Edits(torch.where(shown, position, canvas.scratch), token, prob)

    def choose(self, views: VersionViews, state: Ranked) -> Choice:
        # [B, C, N]: which entry has which number; nothing is eligible in the scratch column.
        same = (state.position[:, :, None] == views.positions[:, None]) & views.eligible[:, :1]
        asked = (self._bits(views.canvas)[:, None, :, None] * same[None]).any(dim=2).transpose(0, 1)
        moved = (divergence(views.proposal) > self.tolerance) & asked & views.exists[:, 1:, None]
        token = (same * state.token[:, :, None]).sum(dim=1)
        steady = same.any(dim=1) & (token == views.proposal.token[:, 0])
        commit = steady & ~moved.any(dim=1) & views.exists[:, 1:].any(dim=1, keepdim=True)
        nobody = ~commit.any(dim=1, keepdim=True)
        return Choice(torch.zeros_like(views.canvas.start), commit, only=views.eligible[:, 0] & nobody)

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: Ranked) -> Ranked:
        none = self.init(view.canvas)
        # Of the canvas as it is now: the selector was shown none of these.
        left = view.here(view.blocks.block & view.canvas.masked)
        prob = torch.where(left, view.proposal.prob.double(), -torch.inf)
        prob, order = (x[:, : none.position.shape[1]] for x in prob.sort(dim=1, descending=True, stable=True))
        position = torch.where(prob > -torch.inf, view.positions.gather(1, order), view.canvas.columns[-1])
        found = (position, view.proposal.token.gather(1, order), prob)
        return Ranked(*(torch.cat([x, y[:, x.shape[1] :]], dim=1) for x, y in zip(found, none, strict=True)))

    def _bits(self, canvas: Canvas) -> Int[Tensor, "K C"]:
        """The bits of the numbers, the lowest first."""
        level = torch.arange(self.levels, device=canvas.columns.device)
        return (torch.arange(2**self.levels, device=canvas.columns.device) >> level[:, None]) & 1


def divergence(proposal: Proposal) -> Float[Tensor, "B K N"]:
    """A lower bound of KL(version || row) of every version but the row itself, in nats, from the likeliest tokens."""
    tokens, probs = proposal.top_token, proposal.top_prob
    assert tokens is not None
    assert probs is not None
    probs = probs.double().clamp_min(TINY)
    there, row, before = probs[:, 1:], tokens[:, :1, :, None, :], probs[:, :1]
    equal = tokens[:, 1:, :, :, None] == row
    found = equal.any(dim=-1)
    known = (equal * before[:, :, :, None, :]).sum(dim=-1)
    # One that is not among the row's likeliest has no more than the last of these.
    share = torch.where(found, known, before[..., -1:])
    rest = (1 - there.sum(dim=-1)).clamp_min(TINY)
    rest_before = (1 - known.sum(dim=-1)).clamp_min(TINY)
    return (there * (there / share).log()).sum(dim=-1) + rest * (rest / rest_before).log()
