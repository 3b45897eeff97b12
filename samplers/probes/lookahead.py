"""Look-ahead branches: several continuations of a row in one forward, of which the surest is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews

# Each is a further row of every forward.
MOST_BRANCHES = 64


class Candidates(NamedTuple):
    """One more token for each branch; the position is the scratch column where there is none.

    Attributes:
        position, token: where and what. ``[B, K]``
        prob: how sure the model was of it. ``[B, K]``
    """

    position: Int[Tensor, "B K"]
    token: Int[Tensor, "B K"]
    prob: Float[Tensor, "B K"]


@dataclass(frozen=True)
class Lookahead(Probe):
    """``branches`` continuations beside the row itself (LoPA, arXiv 2512.16229, as described in its abstract; the
    branch score over what is left of the block and the tie rule are ours).

    Branch j has one more token: the j-th surest of the proposals that the last step did not commit. The branch whose
    remaining masks are surest on average becomes the row, and its logits serve the step's ordinary selection.

    Raises:
        SettingsError: fewer than one branch.
    """

    branches: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.branches <= MOST_BRANCHES:
            raise SettingsError(
                f"branches must be from 1 to {MOST_BRANCHES}, each a further row of every forward, got {self.branches};"
                " without branches use threshold"
            )

    @property
    def versions(self) -> int:
        return self.branches

    def init(self, canvas: Canvas) -> Candidates:
        position = canvas.start.new_full((canvas.start.shape[0], self.branches), canvas.scratch)
        return Candidates(position, torch.zeros_like(position), torch.zeros_like(position, dtype=torch.float64))

    def propose(self, canvas: Canvas, blocks: BlockState, state: Candidates) -> Edits:
        return Edits(*(x[:, :, None] for x in state))

    def choose(self, views: VersionViews, state: Candidates) -> Choice:
        # In float64: which branch is surest must not depend on how the batch is padded.
        left = views.eligible & views.exists[:, :, None]
        mean = (views.proposal.prob * left).sum(dim=2, dtype=torch.float64) / left.sum(dim=2)
        # A version without anything left has the mean 0/0.
        return Choice(mean.nan_to_num_(nan=-torch.inf).argmax(dim=1))

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: Candidates) -> Candidates:
        prob = torch.where(view.eligible & ~chosen, view.proposal.prob.double(), -torch.inf)
        prob, order = (x[:, : self.branches] for x in prob.sort(dim=1, descending=True, stable=True))
        position = torch.where(prob > -torch.inf, view.positions.gather(1, order), view.canvas.columns[-1])
        found = Candidates(position, view.proposal.token.gather(1, order), prob)
        missing = self.branches - prob.shape[1]
        if missing > 0:
            none = self.init(view.canvas)
            found = Candidates(*(torch.cat([x, y[:, :missing]], dim=1) for x, y in zip(found, none, strict=True)))
        return found
