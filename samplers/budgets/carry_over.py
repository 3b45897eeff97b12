"""A cap per step; what one step leaves unused, later ones may use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.interfaces import Budget
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class CarryOver(Budget):
    """At most n/steps positions per step on average, n being the block's masked positions: step j may commit what
    (j + 1) n / steps leaves after the commits so far (Fast-dLLM's Dream port, ``alg="confidence_threshold"``).

    Raises:
        SettingsError: steps below 1.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingsError(f"steps must be at least 1, got {self.steps}")

    def check(self, region: int, block: int) -> None:
        return None

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        blocks = view.blocks
        left = view.eligible.sum(dim=1)
        allowed = (blocks.block_step + 1) * blocks.block_masks // self.steps
        return torch.minimum(allowed - (blocks.block_masks - left), left).clamp_min(1), state
