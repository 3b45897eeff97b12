"""Positions amid what is known go first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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
        length = (canvas.end - canvas.start)[:, None]
        known = ~canvas.masked & canvas.inside(canvas.start, canvas.end)
        last = known.gather(1, (canvas.end - 1)[:, None])
        # Offsets from the start of the region, one region wide on each side.
        offset = canvas.columns - canvas.start[:, None]
        place = view.positions - canvas.start[:, None]
        away = torch.arange(1, 3 * canvas.columns.shape[0] + 1, device=place.device)
        # Distances -3L .. 3L - 1, as published.
        weights = self._weight(away.double()).masked_fill(away > 3 * length, 0.0)
        total = 1.0 + 2.0 * weights.sum(dim=1, keepdim=True) - self._weight(3.0 * length.double())
        steps = away[: canvas.columns.shape[0]]
        left, right = -steps.expand(len(length), -1), length - 1 + steps
        inside = steps <= length
        density = (
            self._mass(place, offset, known) + self._mass(place, left, inside) + self._mass(place, right, inside & last)
        ) / total
        return torch.where(view.eligible, view.scores * density.to(view.scores.dtype), view.scores), state

    def _weight(self, distance: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        return torch.exp(-(distance**2) / (2.0 * self.sigma**2))

    def _mass(self, place: Tensor, source: Tensor, known: Tensor) -> Float[Tensor, "B N"]:
        """Weight of the known among ``source`` offsets, seen from each ``place``."""
        weight = self._weight((place[:, :, None] - source[:, None, :]).double())
        return (weight * known[:, None, :]).sum(dim=2)
