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

    def within(self, attention_block: int) -> BlockSchedule:
        return Aligned(self.length).within(attention_block)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        length = self.length or self.usual
        first = canvas.masked.int().argmax(dim=1)
        offset = (first - canvas.start).clamp_min(0) // length * length
        start = canvas.start + offset
        return start, torch.minimum(start + length, canvas.end), state


@dataclass(frozen=True)
class Aligned(BlockSchedule):
    """Blocks of ``length`` positions from left to right whose borders are multiples of ``length``, counted from
    position 0, the prompt included: the first one holds the end of the prompt, and has fewer positions to fill (block
    diffusion: SDAR, arXiv 2510.06303; Fast-dLLM v2, arXiv 2509.26328). ``length=None``: the model's attention blocks;
    blocks of 32 where its attention has none.

    Raises:
        SettingsError: a length below 1, or one that does not divide the model's attention blocks.
    """

    length: int | None = None

    def __post_init__(self) -> None:
        at_least(1, **{"blocks.length": self.length})

    def within(self, attention_block: int) -> BlockSchedule:
        length = self.length or attention_block
        if attention_block % length:
            fitting = [n for n in range(1, attention_block + 1) if attention_block % n == 0]
            raise SettingsError(
                f"blocks.length={length} does not divide the model's attention blocks of {attention_block} positions:"
                f" use one of {', '.join(map(str, fitting))}, or blocks=aligned"
            )
        return Aligned(length)

    def longest(self, region: int) -> int:
        return min(self.length or 32, region)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        length = self.length or 32
        # The block begins where it does in the attention, though what is given of it is never written.
        start = canvas.masked.int().argmax(dim=1) // length * length
        return start, torch.minimum(start + length, canvas.end), state


@dataclass(frozen=True)
class Widening(Fixed):
    """The same ends, but every block begins where the row does: what a reviser takes back of earlier blocks competes
    with the present one (the published loops of Saber, arXiv 2510.18165, and of MDPO's RCR, arXiv 2508.13148)."""

    def longest(self, region: int) -> int:
        super().longest(region)
        return region

    def within(self, attention_block: int) -> BlockSchedule:
        return BlockSchedule.within(self, attention_block)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        return canvas.start, super().step(canvas, state)[1], state


@dataclass(frozen=True)
class Whole(BlockSchedule):
    """The whole generated region is one block."""

    def longest(self, region: int) -> int:
        return region

    def within(self, attention_block: int) -> BlockSchedule:
        return Aligned().within(attention_block)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        return canvas.start, canvas.end, state
