"""WINO's first half: commit boldly."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError


@dataclass(frozen=True)
class WideIn(Selector):
    """Commit the positions with score > ``threshold``, but no more than a ``share`` of the open ones, and that at least
    ``least`` and at most ``most``; the best position always (WINO, arXiv 2507.18578; the cap is in its code only).

    Raises:
        SettingsError: threshold or share outside [0, 1], or least above most.
    """

    threshold: float = 0.6
    share: float = 0.7
    least: int = 5
    most: int = 20

    def __post_init__(self) -> None:
        for name in ("threshold", "share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingsError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 1 <= self.least <= self.most:
            raise SettingsError(f"least and most must satisfy 1 <= least <= most, got {self.least} and {self.most}")

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        open_ = view.eligible.sum(dim=1, keepdim=True)
        cap = (open_ * self.share + 1e-9).long().clamp(self.least, self.most)
        return (view.scores > self.threshold) & (rank(view.scores) < cap), state
