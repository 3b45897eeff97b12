"""Unlock: where nothing is sure, try unsure tokens, and keep the one after which most others are sure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews
from samplers.probes.lookahead import MOST_BRANCHES, Candidates
from samplers.settings import within


@dataclass(frozen=True)
class Unlocking(Probe):
    """After a step that committed nothing of ``threshold`` or more the next forward tries ``candidates`` proposals, one
    in a version each: the least sure ones of ``floor`` or more. The row becomes the version that commits most, its own
    token and all that reaches ``threshold`` then, if that is more than the row would. Ours, after the abstract of
    Explore-Then-Exploit (arXiv 2511.21103): an unsure token tells more, and a round that tells more saves rounds.

    Raises:
        SettingsError: no candidate or too many, a threshold outside (0, 1.01], a floor outside [0, 1].
    """

    threshold: float = 0.9
    candidates: int = 4
    floor: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MOST_BRANCHES:
            raise SettingsError(
                f"candidates must be from 1 to {MOST_BRANCHES}, each a further row of a forward, got {self.candidates}"
            )
        within("(0, 1.01]", threshold=self.threshold)
        within("[0, 1]", floor=self.floor)

    @property
    def versions(self) -> int:
        return self.candidates

    def init(self, canvas: Canvas) -> Candidates:
        position = canvas.start.new_full((canvas.start.shape[0], self.candidates), canvas.scratch)
        return Candidates(position, torch.zeros_like(position), torch.zeros_like(position, dtype=torch.float64))

    def asks(self, state: Candidates) -> Int[Tensor, " B"]:
        # A candidate has a probability above 0.
        return (state.prob > 0).sum(dim=1)

    def propose(self, canvas: Canvas, blocks: BlockState, state: Candidates) -> Edits:
        return Edits(*(x[:, :, None] for x in state))

    def choose(self, views: VersionViews, state: Candidates) -> Choice:
        sure = (views.eligible & (views.proposal.prob >= self.threshold)).sum(dim=2)
        # The row commits one in any case, a version the token that it was made by.
        commits = torch.cat([sure[:, :1].clamp_min(1), sure[:, 1:] + 1], dim=1)
        version = commits.masked_fill(~views.exists, -1).argmax(dim=1)
        there = views.proposal.prob[views.canvas.rows, version] >= self.threshold
        return Choice(version, only=there | (version == 0)[:, None])

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: Candidates) -> Candidates:
        prob, none = view.proposal.prob.double(), self.init(view.canvas)
        stuck = ~(chosen & (prob >= self.threshold)).any(dim=1, keepdim=True)
        fits = view.here(view.blocks.block & view.canvas.masked) & (prob >= self.floor) & (prob > 0) & stuck
        least, order = (x[:, : self.candidates] for x in prob.masked_fill(~fits, torch.inf).sort(dim=1, stable=True))
        there = least < torch.inf
        position = torch.where(there, view.positions.gather(1, order), view.canvas.columns[-1])
        found = (position, view.proposal.token.gather(1, order), least.masked_fill(~there, 0.0))
        return Candidates(*(torch.cat([x, y[:, x.shape[1] :]], dim=1) for x, y in zip(found, none, strict=True)))
