"""Pure diffusion: one block."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule


@dataclass(frozen=True)
class Whole(BlockSchedule):
    """The whole generated region is one block."""

    def longest(self, region: int) -> int:
        return region

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        return canvas.start, canvas.end, state
