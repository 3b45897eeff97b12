"""Saber's rule: everything surer than what was committed so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError


@dataclass(frozen=True)
class MeanThreshold(Selector):
    """Commit every position with score > the mean confidence at which positions have been committed so far (1 before
    the first), at least the ``minimum`` best (Saber, arXiv 2510.18165). Positions that were taken back stay in the
    mean, as in the published code.

    Raises:
        SettingsError: a minimum below 1.
    """

    minimum: int = 2

    def __post_init__(self) -> None:
        if self.minimum < 1:
            raise SettingsError(f"minimum must be at least 1, got {self.minimum}")

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        """Confidence of each position at its last commit, NaN if there was none."""
        return torch.full(canvas.tokens.shape, torch.nan, dtype=torch.float64, device=canvas.tokens.device)

    def step(self, view: StepView, state: Float[Tensor, "B W"]) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B W"]]:
        assert view.scores is not None
        mean = state.nanmean(dim=1).nan_to_num(nan=1.0)
        above = (view.scores > mean[:, None]) & view.eligible
        few = above.sum(dim=1, keepdim=True) < self.minimum
        chosen = torch.where(few, rank(view.scores) < self.minimum, above) & view.eligible
        new = view.on_canvas(view.proposal.prob.double().masked_fill(~chosen, torch.nan), torch.nan)
        return chosen, torch.where(new.isnan(), state, new)
