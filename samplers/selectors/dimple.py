"""Dimple's confident decoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView
from samplers.blocks.fixed import Whole
from samplers.settings import at_least, within


@dataclass(frozen=True)
class Dimple(Selector):
    """Commit every position with score > ``threshold`` (strictly); when there is none, as many as the time grid says
    (Dimple, arXiv 2505.16990).

    The grid has ``steps`` intervals from 1 to ``eps``. With n of N positions masked, t = n / N, the grid point s is the
    first one behind the present step for which n (1 - s / t) reaches 1; that many positions are committed, all of them
    at the end of the grid and in the last step. ``steps=None``: one per position.

    Raises:
        SettingsError: a threshold outside (0, 1], steps below 1, eps outside (0, 1).
    """

    threshold: float = 0.95
    steps: int | None = None
    eps: float = 1e-3

    def __post_init__(self) -> None:
        within("(0, 1]", threshold=self.threshold)
        at_least(1, steps=self.steps)
        within("(0, 1)", eps=self.eps)

    block_schedules = (Whole,)
    always_commits = True

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        masks, after = view.blocks.block_masks, view.blocks.step + 1
        steps = masks if self.steps is None else torch.full_like(masks, self.steps)
        sure = ((view.scores > self.threshold) | (after >= steps)[:, None]) & view.eligible
        fallback = view.rank(view.scores) < self._scheduled(view, steps.double(), after)[:, None]
        return torch.where(sure.any(dim=1, keepdim=True), sure, fallback), state

    def _scheduled(self, view: StepView, steps: Float[Tensor, " B"], after: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """How many positions a grid of so many intervals commits at this step, the one before ``after``."""
        total, now = view.blocks.block_masks, view.eligible.sum(dim=1, dtype=torch.float64)
        stride = (1.0 - self.eps) / steps
        # n (1 - s/t) >= 1 is s N <= n - 1: the first grid point that low, if it is not behind the step already.
        reached = torch.ceil((1.0 - (now - 1.0) / total) / stride - 1e-9)
        point = torch.maximum(reached, after)
        number = torch.floor(now - (1.0 - point * stride) * total + 1e-9).clamp_min(1.0)
        return torch.where(point >= steps, now, number)
