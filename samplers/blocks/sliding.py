"""DSB and DCD: a block whose window slides on as its positions fill."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule
from dlm.engine.step import BlockState
from dlm.errors import SettingsError
from samplers.settings import at_least


@dataclass(frozen=True)
class SlidingBlocks(BlockSchedule):
    """The window begins at the first open position, and its end moves right by as many positions as were filled: it
    always holds ``length`` open ones, until the region ends (Dynamic Sliding Block, arXiv 2602.05992; Deferred
    Commitment Decoding, arXiv 2601.02076, section 3; details of their code). So an unsure position is not forced by the
    border of its block, and a sure one behind it need not wait.

    With u positions of the region filled, the window is [first open, start + length + u): it ends behind the
    ``length``-th open position. ``widest`` bounds it to so many positions from its beginning (DCD); None: it may reach
    as far as it has come. ``length=None``: ``usual``, or the whole region where that is shorter. Where attention has
    blocks, the window ends where that of its first position does (``inside``; so does DCD on Fast-dLLM v2, where the
    attention blocks grow besides).

    Raises:
        SettingsError: a length below 1 or longer than the region, a width below the length.
    """

    length: int | None = None
    widest: int | None = None
    usual: int = 32
    inside: int | None = None

    def __post_init__(self) -> None:
        at_least(1, **{"blocks.length": self.length, "blocks.widest": self.widest, "blocks.usual": self.usual})
        length = self.length or self.usual
        if self.widest is not None and self.widest < length:
            raise SettingsError(f"blocks.widest={self.widest} is less than the length {length}; raise it")

    def longest(self, region: int) -> int:
        if self.length is not None and self.length > region:
            raise SettingsError(
                f"blocks.length={self.length} is longer than the canvas of {region} positions: use a length of at most"
                f" {region}, or blocks=whole"
            )
        return region if self.widest is None else min(self.widest, region)

    def within(self, attention_block: int) -> BlockSchedule:
        return replace(self, inside=attention_block)

    def most_open(self, region: int) -> int:
        return min(self.length or self.usual, region)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        masked = canvas.masked
        first = masked.int().argmax(dim=1)
        # The position before the end is always open: what is committed there moves the end on.
        held = masked & (masked.cumsum(dim=1) <= (self.length or self.usual))
        end = ((canvas.columns + 1) * held).amax(dim=1)
        if self.inside is not None:
            end = torch.minimum(end, (first // self.inside + 1) * self.inside)
        return first, end if self.widest is None else torch.minimum(end, first + self.widest), state

    def move(
        self, canvas: Canvas, blocks: BlockState, state: None
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        return self.step(canvas, state)
