"""d3LLM: several blocks open at once, the next one as soon as the last is far enough."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule
from dlm.engine.step import BlockState
from samplers.blocks.fixed import Fixed
from samplers.settings import within

_KEPT = ("number", "ends", "most")


@dataclass(frozen=True)
class PipelinedBlocks(Fixed):
    """Blocks of ``length`` from left to right, of which the next one is opened once ``begin`` of the last is filled,
    while those before it stay open (entropy-based multi-block decoding: d3LLM, arXiv 2601.07568; details of its code).
    The open span reaches from the first block with a mask to the first one that is filled to less than ``begin``; at 1
    blocks are filled one after the other. What was given counts as filled.

    Raises:
        SettingsError: a length below 1 or longer than the region, ``begin`` outside (0, 1].
    """

    begin: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        within("(0, 1]", **{"blocks.begin": self.begin})

    def longest(self, region: int) -> int:
        super().longest(region)
        return region

    def within(self, attention_block: int) -> BlockSchedule:
        return BlockSchedule.within(self, attention_block)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        number, ends, most = (canvas.kept((self, name), partial(self._kept, canvas, name)) for name in _KEPT)
        masks = torch.zeros_like(ends).scatter_add_(1, number, canvas.masked.long())
        end = torch.where(masks > most, ends, canvas.end[:, None]).amin(dim=1)
        return super().step(canvas, state)[0], end, state

    def _kept(self, canvas: Canvas, name: str) -> Int[Tensor, "B W"]:
        """The block of every position (what lies before the first one is counted with it); and, by the number of a
        block, its end and the most masks with which the next one may open."""
        length = self.length or self.usual
        number = (canvas.columns - canvas.start[:, None]).clamp_min(0) // length
        if name == "number":
            return number
        if name == "ends":
            return torch.minimum(canvas.start[:, None] + (canvas.columns + 1) * length, canvas.end[:, None])
        size = torch.zeros_like(number).scatter_add_(1, number, canvas.generated.long())
        return (size - (self.begin * size.double() - 1e-9).ceil()).long()

    def move(
        self, canvas: Canvas, blocks: BlockState, state: None
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        return self.step(canvas, state)
