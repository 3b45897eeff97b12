"""The same number of positions at every step, or on average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.interfaces import Budget
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.settings import at_least


@dataclass(frozen=True)
class Uniform(Budget):
    """A fixed number of forwards, or a fixed number of positions per forward (LLaDA, arXiv 2502.09992).

    Give one of the two. ``steps`` counts the whole canvas; each block gets the share of its length (for blocks of equal
    length steps / blocks each), at least one, and splits its masked positions over it as evenly as possible, the
    larger parts first (LLaDA, arXiv 2502.09992).

    Raises:
        SettingsError: both or neither given, below 1, or fewer steps than blocks.
    """

    tokens_per_step: int | None = 1
    steps: int | None = None
    order_known = True

    def __post_init__(self) -> None:
        if (self.tokens_per_step is None) == (self.steps is None):
            raise SettingsError(
                f"give either steps or tokens_per_step, not both or neither (steps={self.steps},"
                f" tokens_per_step={self.tokens_per_step})"
            )
        at_least(1, steps=self.steps, tokens_per_step=self.tokens_per_step)

    @property
    def plans_blocks(self) -> bool:
        return self.steps is not None

    @property
    def each(self) -> int | None:
        return self.tokens_per_step

    def check(self, region: int, block: int) -> None:
        blocks = -(-region // block)
        if self.steps is not None and self.steps < blocks:
            raise SettingsError(
                f"steps={self.steps} is less than one forward for each of the {blocks} blocks ({region} positions in"
                f" blocks of {block}): raise steps or the block length"
            )

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        blocks = view.blocks
        if self.steps is None:
            assert self.tokens_per_step is not None
            return view.canvas.number(self.tokens_per_step, torch.long).expand_as(blocks.step), state
        start, region = view.canvas.start, view.canvas.region
        # Steps are cut where blocks are cut, so that the parts add up to the whole.
        done = (blocks.block_start - start) * self.steps // region
        due = (blocks.block_end - start) * self.steps // region
        share = (due - done).clamp_min(1)
        base, rest = blocks.block_masks // share, blocks.block_masks % share
        return base + (blocks.block_step < rest), state


@dataclass(frozen=True)
class CarryOver(Budget):
    """At most n/steps positions per step on average, n being the block's masked positions: step j may commit what
    (j + 1) n / steps leaves after the commits so far (Fast-dLLM's Dream port, ``alg="confidence_threshold"``).

    Raises:
        SettingsError: steps below 1.
    """

    steps: int

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)

    def check(self, region: int, block: int) -> None:
        return None

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        blocks = view.blocks
        left = view.eligible.sum(dim=1)
        allowed = (blocks.block_step + 1) * blocks.block_masks // self.steps
        return torch.minimum(allowed - (blocks.block_masks - left), left).clamp_min(1), state
