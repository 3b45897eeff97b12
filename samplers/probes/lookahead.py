"""Look-ahead branches: several continuations of a row in one forward, of which the surest is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews
from samplers.settings import within

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
    """``branches`` continuations beside the row itself (LoPA, arXiv 2512.16229, and the authors' code).

    Branch j has one more token: the j-th surest of the proposals that the last step did not commit. The branch with the
    highest score becomes the row, and its logits serve the step's ordinary selection, which commits its surest mask in
    any case. The score is ``creation`` times the confidence of the token that made the branch (1 for the row itself),
    and for the rest the mean over the ``lowest`` part of the confidences that it leaves in the block (1 where it leaves
    nothing). Of equal branches the surest is taken, the row itself last.

    ``score="mean"``: ours, the mean over all that is left, however the branch was made; a branch that leaves nothing
    is none, and the row itself comes first.

    Raises:
        SettingsError: fewer than one branch, a share out of its range.
    """

    branches: int = 3
    score: Literal["published", "mean"] = "published"
    creation: float = 0.5
    lowest: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.branches <= MOST_BRANCHES:
            raise SettingsError(
                f"branches must be from 1 to {MOST_BRANCHES}, each a further row of every forward, got {self.branches};"
                " without branches use threshold"
            )
        within("[0, 1]", creation=self.creation)
        within("(0, 1]", lowest=self.lowest)

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
        count, sure = left.sum(dim=2), views.proposal.prob.double()
        if self.score == "mean":
            mean = (sure * left).sum(dim=2) / count
            # A version without anything left has the mean 0/0.
            return Choice(mean.nan_to_num_(nan=-torch.inf).argmax(dim=1))
        taken = (count.double() * self.lowest).long().clamp_min(1)
        ordered = torch.where(left, sure, torch.inf).sort(dim=2).values
        among = views.canvas.columns[: left.shape[2]] < taken[:, :, None]
        weakest = torch.where(among, ordered, 0.0).sum(dim=2) / taken
        future = torch.where(count > 0, weakest, 1.0)
        made = torch.cat([torch.ones_like(future[:, :1]), state.prob], dim=1)
        score = torch.where(views.exists, self.creation * made + (1 - self.creation) * future, -torch.inf)
        # The row itself stands last, so that it loses a draw.
        version = (score.roll(-1, dims=1).argmax(dim=1) + 1) % score.shape[1]
        own = version[:, None, None].expand(-1, 1, left.shape[2])
        best = torch.where(left, sure, -torch.inf).gather(1, own)[:, 0].argmax(dim=1, keepdim=True)
        return Choice(version, commit=torch.zeros_like(left[:, 0]).scatter_(1, best, True))

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
