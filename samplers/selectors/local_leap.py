"""LocalLeap: a lower bar in the neighbourhood of what is sure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class LocalLeap(Selector):
    """Anchors are the positions with score >= ``anchor``; within ``radius`` positions of an anchor a score >=
    ``relaxed`` is enough (LocalLeap, arXiv 2510.07081). The best position is always committed. Only positions that
    are still masked can be anchors.

    Raises:
        SettingsError: thresholds outside (0, 1.01], relaxed above anchor, a negative radius.
    """

    anchor: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        for name in ("anchor", "relaxed"):
            if not 0.0 < getattr(self, name) <= 1.01:
                raise SettingsError(f"{name} must be in (0, 1.01], got {getattr(self, name)}")
        if self.relaxed > self.anchor:
            raise SettingsError(f"relaxed={self.relaxed} must not exceed anchor={self.anchor}")
        if self.radius < 0:
            raise SettingsError(f"radius must be 0 or more, got {self.radius}")

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        anchors = (view.scores >= self.anchor) & view.eligible
        on_canvas = view.on_canvas(anchors.float())[:, None]
        zone = torch.nn.functional.max_pool1d(on_canvas, 2 * self.radius + 1, stride=1, padding=self.radius)
        near = view.here(zone[:, 0] > 0)
        return anchors | (near & (view.scores >= self.relaxed)), state
