"""How sure the model is of a proposal: its probability, its margin, its entropy, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import Score
from dlm.engine.noise import Purpose
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView


@dataclass(frozen=True)
class Probability(Score):
    """Probability of the proposed token, c_i = p_i(y_i) (LLaDA, arXiv 2502.09992, low-confidence remasking).

    In [0, 1]. Which softmax it is, raw or filtered, is the proposer's choice.
    """

    non_negative = of_proposals = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        return view.proposal.prob, state


@dataclass(frozen=True)
class Margin(Score):
    """Probability of the proposed token minus the largest other one ("Train for the worst, plan for the best",
    arXiv 2502.06768; Dream's ``topk_margin``). In [-1, 1]; negative only when the mask id or a drawn token is beaten.
    """

    needs = frozenset[Statistic]({"margin"})
    of_proposals = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.proposal.margin is not None
        return view.proposal.margin, state


@dataclass(frozen=True)
class NegativeEntropy(Score):
    """Minus the entropy of the distribution, in nats, at most 0 (Dream 7B, arXiv 2508.15487, ``entropy``)."""

    needs = frozenset[Statistic]({"entropy"})
    of_proposals = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.proposal.entropy is not None
        return -view.proposal.entropy, state


@dataclass(frozen=True)
class Earliest(Score):
    """Minus the position: from left to right, however sure the model is (SDAR, arXiv 2510.06303, ``sequential``)."""

    order_known = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        return -view.positions.to(view.proposal.prob.dtype), state


@dataclass(frozen=True)
class Random(Score):
    """A fresh uniform in (0, 1) per position and step (LLaDA's ``remasking="random"``); tokens stay the proposals."""

    non_negative = True
    order_known = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        return view.uniform(Purpose.SCORE), state
