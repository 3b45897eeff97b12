"""Everything whose distribution is narrow enough."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class EntropyThreshold(Selector):
    """Commit every position with entropy <= ``threshold`` nats, at least the best one (the decoder of dParallel,
    arXiv 2509.26488). ``strict``: below it, as in dParallel's Dream code.

    Raises:
        SettingsError: a negative threshold.
    """

    threshold: float = 0.5
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < float("inf"):
            raise SettingsError(f"threshold is an entropy in nats, 0 or more, got {self.threshold}")

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"entropy"})

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        entropy = view.proposal.entropy
        assert entropy is not None
        return entropy < self.threshold if self.strict else entropy <= self.threshold, state
