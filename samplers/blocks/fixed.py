"""Semi-autoregressive blocks of one length, and pure diffusion: one block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule
from dlm.errors import SettingsError
from samplers.settings import at_least


@dataclass(frozen=True)
class Fixed(BlockSchedule):
    """Blocks of ``length`` positions from left to right, counted from the start of the row's own generated region; the
    last one is shorter where the length does not divide the region. Blocks without masks are passed over (LLaDA,
    arXiv 2502.09992, semi-autoregressive remasking). ``length=None``: ``usual``, or the whole region where that is
    shorter.

    Raises:
        SettingsError: a length below 1, or longer than the generated region.
    """

    length: int | None = None
    usual: int = 32

    def __post_init__(self) -> None:
        at_least(1, **{"blocks.length": self.length, "blocks.usual": self.usual})

    def longest(self, region: int) -> int:
        if self.length is not None and self.length > region:
            raise SettingsError(
                f"blocks.length={self.length} is longer than the canvas of {region} positions: use a length of at most"
                f" {region}, or blocks=whole"
            )
        return min(self.length or self.usual, region)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        length = self.length or self.usual
        first = canvas.masked.int().argmax(dim=1)
        offset = (first - canvas.start).clamp_min(0) // length * length
        start = canvas.start + offset
        return start, torch.minimum(start + length, canvas.end), state


@dataclass(frozen=True)
class Widening(Fixed):
    """The same ends, but every block begins where the row does: what a reviser takes back of earlier blocks competes
    with the present one (the published loops of Saber, arXiv 2510.18165, and of MDPO's RCR, arXiv 2508.13148)."""

    def longest(self, region: int) -> int:
        super().longest(region)
        return region

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        return canvas.start, super().step(canvas, state)[1], state


@dataclass(frozen=True)
class Whole(BlockSchedule):
    """The whole generated region is one block."""

    def longest(self, region: int) -> int:
        return region

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        return canvas.start, canvas.end, state
