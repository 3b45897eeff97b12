"""Confidence by probability."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import Score
from dlm.engine.step import StepView


@dataclass(frozen=True)
class Probability(Score):
    """Probability of the proposed token, c_i = p_i(y_i) (LLaDA, arXiv 2502.09992, low-confidence remasking).

    In [0, 1]. Which softmax it is, raw or filtered, is the proposer's choice.
    """

    non_negative = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        return view.proposal.prob, state
