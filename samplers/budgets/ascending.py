"""ASS: step sizes that double, and the blocks they are cut into."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule, Budget
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.settings import at_least


@dataclass(frozen=True)
class AscendingBlocks(BlockSchedule):
    """``count`` blocks cut where the steps of :class:`samplers.Ascending` end: the first one holds the small steps,
    every later block one step, the last one the remainder (ASS with several blocks, arXiv 2509.23924).

    With S = floor(log2 G): G = 128 in 4 blocks is 15, 16, 32, 65.

    Raises:
        SettingsError: a count below 1, or more blocks than steps.
    """

    count: int = 4

    def __post_init__(self) -> None:
        at_least(1, count=self.count)

    def longest(self, region: int) -> int:
        steps = max(region, 1).bit_length() - 1
        if self.count > max(steps, 1):
            raise SettingsError(f"{self.count} ascending blocks need 2^{self.count} positions to fill, got {region}")
        return region if self.count == 1 else max(region - 2 ** (steps - 1) + 1, 2 ** (steps - self.count + 1) - 1)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        region = canvas.region
        steps = region.double().log2().floor().long()
        first = canvas.masked.int().argmax(dim=1) - canvas.start
        # Ends of the blocks, as offsets: 2^(S - count + 1) - 1, doubled and so on, and the end of the region.
        exponent = steps[:, None] - self.count + 1 + torch.arange(self.count, device=region.device)
        ends = 2 ** exponent.clamp_min(0) - 1
        ends = torch.cat([ends[:, :-1], region[:, None]], dim=1)
        passed = first[:, None] >= ends
        end = torch.where(passed, region[:, None], ends).amin(dim=1)
        start = torch.where(passed, ends, 0).amax(dim=1)
        return canvas.start + start, torch.minimum(canvas.start + end, canvas.end), state


@dataclass(frozen=True)
class Ascending(Budget):
    """Step j commits 2^j positions; the last of floor(log2 G) steps commits all that is left of the G generated
    positions (ascending step size, arXiv 2509.23924).

    Raises:
        SettingsError: a region of fewer than 2 positions.
    """

    # It plans the whole canvas; blocks of its own cut it where its steps are (AscendingBlocks).
    block_schedules = (Whole, AscendingBlocks)

    def check(self, region: int, block: int) -> None:
        if region < 2:
            raise SettingsError(f"ascending step sizes need at least 2 positions to fill, got {region}")

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        size, left = 2 ** view.blocks.step.clamp_max(60), view.eligible.sum(dim=1)
        # Step j is not the last but one of floor(log2 G) if 2^(j+2) is at most G.
        return torch.where(4 * size <= view.canvas.region, size, left), state
