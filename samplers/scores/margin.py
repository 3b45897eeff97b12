"""Confidence by margin."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import Score
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView


@dataclass(frozen=True)
class Margin(Score):
    """Probability of the proposed token minus the largest other one ("Train for the worst, plan for the best",
    arXiv 2502.06768; Dream's ``topk_margin``). In [-1, 1]; negative only when the mask id or a drawn token is beaten.
    """

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"margin"})

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.proposal.margin is not None
        return view.proposal.margin, state
