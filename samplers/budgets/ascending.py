"""ASS: step sizes that double."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.interfaces import Budget
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.blocks.ascending import AscendingBlocks
from samplers.blocks.fixed import Whole


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
        canvas, j = view.canvas, view.blocks.step
        steps = canvas.region.double().log2().floor().long()
        left = view.eligible.sum(dim=1)
        return torch.where(j < steps - 1, 2 ** j.clamp_max(62), left), state
