"""Confidence by negative entropy."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import Score
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView


@dataclass(frozen=True)
class NegativeEntropy(Score):
    """Minus the entropy of the distribution, in nats, at most 0 (Dream 7B, arXiv 2508.15487, ``entropy``)."""

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"entropy"})

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.proposal.entropy is not None
        return -view.proposal.entropy, state
