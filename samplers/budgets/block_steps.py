"""So many steps for every block, however much of it is given."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from dlm.engine.interfaces import Budget
from dlm.engine.step import StepView
from samplers.settings import at_least


@dataclass(frozen=True)
class BlockSteps(Budget):
    """A block of n positions is filled in ``steps`` steps of n / steps positions each, the larger parts first; n counts
    what is given of it, too, so that a block with the end of the prompt is done sooner (SDAR, arXiv 2510.06303;
    LLaDA2.0, arXiv 2512.15745). ``steps=None``: one position a step.

    Raises:
        SettingsError: steps below 1.
    """

    steps: int | None = None
    order_known = True

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)

    @property
    def plans_blocks(self) -> bool:
        return self.steps is not None

    @property
    def each(self) -> int | None:
        return 1 if self.steps is None else None

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        blocks = view.blocks
        length = blocks.block_end - blocks.block_start
        steps = length if self.steps is None else self.steps
        return (length // steps + (blocks.block_step < length % steps)).clamp_min(1), state
