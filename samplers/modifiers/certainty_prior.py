"""Positions amid what is known go first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import ScoreModifier
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class CertaintyPrior(ScoreModifier):
    """Multiply scores with the share of known positions around, weighted by a Gaussian of ``sigma`` positions
    (certainty density, d2Cache, arXiv 2509.23094).

    One region's length to the left of the generated region counts as known; as much to its right counts as known only
    once the last generated position is. The weights are normalised over both sides.

    Raises:
        SettingsError: sigma not above 0.
    """

    sigma: float = 10.0

    scales = True

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma < float("inf"):
            raise SettingsError(f"sigma must be above 0 (positions), got {self.sigma}")

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.scores is not None
        canvas = view.canvas
        total, sources, inside = (
            canvas.kept((self, part), partial(part, canvas)) for part in (self._total, self._sources, self._inside)
        )
        known = canvas.generated & ~canvas.masked
        last = known.gather(1, canvas.kept("last", lambda: canvas.end[:, None] - 1))
        known = torch.stack([known, inside, inside & last], dim=1)[:, None]
        weights = canvas.kept(
            (self, "weights"), lambda: self._weight(torch.arange(3 * canvas.tokens.shape[1] + 1, device=known.device))
        )
        place = (view.positions - canvas.start[:, None])[:, :, None, None]
        here, left, right = (weights[(place - sources).abs()] * known).sum(dim=3).unbind(dim=2)
        return view.scores * ((here + left + right) / total).to(view.scores.dtype), state

    def _sources(self, canvas: Canvas) -> Int[Tensor, "B 1 3 W"]:
        """What is looked at, as offsets from the start of the region: the row, and a region's length on either side."""
        columns, length = canvas.columns, (canvas.end - canvas.start)[:, None]
        offset, left = columns - canvas.start[:, None], -1 - columns.expand(len(length), -1)
        return torch.stack([offset, left, length + columns], dim=1)[:, None]

    def _inside(self, canvas: Canvas) -> Bool[Tensor, "B W"]:
        """How far the sides reach."""
        return canvas.columns < (canvas.end - canvas.start)[:, None]

    def _total(self, canvas: Canvas) -> Float[Tensor, "B 1"]:
        """The weight of all distances from -3L to 3L - 1, as published."""
        length = (canvas.end - canvas.start)[:, None]
        away = torch.arange(1, 3 * canvas.columns.shape[0] + 1, device=length.device)
        weights = self._weight(away).masked_fill(away > 3 * length, 0.0)
        return 1.0 + 2.0 * weights.sum(dim=1, keepdim=True) - self._weight(3 * length)

    def _weight(self, distance: Int[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        return torch.exp(-(distance.double() ** 2) / (2.0 * self.sigma**2))
