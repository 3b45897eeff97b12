"""Fast-dLLM++'s rule: a bound on the joint probability against a bound on any competitor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError


@dataclass(frozen=True)
class Frechet(Selector):
    """Commit the n surest positions, n the largest with L_n - U_n > ``margin`` (Fast-dLLM++, arXiv 2606.02955).

    L_n = max(0, sum of the n largest confidences - (n - 1)) bounds the joint probability of the n tokens from below
    (Fréchet), U_n = 1 - c_(n) that of any other choice from above. At least one position is committed.

    Raises:
        SettingsError: a margin outside [-1, 1).
    """

    margin: float = 0.25

    def __post_init__(self) -> None:
        if not -1.0 <= self.margin < 1.0:
            raise SettingsError(f"margin must be in [-1, 1), got {self.margin}; lower is faster, 0.25 is the paper's")

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        places = rank(view.scores)
        ordered = torch.empty_like(view.scores).scatter_(1, places, view.scores)
        n = torch.arange(1, ordered.shape[1] + 1, device=ordered.device, dtype=ordered.dtype)
        real = n <= view.eligible.sum(dim=1, keepdim=True)
        joint = (ordered.masked_fill(~real, 0.0).cumsum(dim=1) - (n - 1)).clamp_min(0.0)
        passes = (joint - (1.0 - ordered) > self.margin) & real
        # The difference never rises with n, so that the last rank to pass is the number of ranks that do.
        return places < passes.sum(dim=1, keepdim=True), state
