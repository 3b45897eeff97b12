"""Rules about when, and not about which is surest: dilated groups; all or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView
from samplers.settings import at_least, within


@dataclass(frozen=True)
class Dilated(Selector):
    """At step t of a block of B positions commit those at multiples of s = floor(B / base^t), at least 1, that are
    still open: far from each other first, then between them, however sure the model is (dilated schedule, DUS, arXiv
    2506.19037). About log B steps a block.

    Raises:
        SettingsError: base below 2.
    """

    base: int = 2

    order_known = plans_blocks = True

    def __post_init__(self) -> None:
        at_least(2, base=self.base)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        blocks = view.blocks
        # In float64, where a high power is infinite and not an overflow.
        length = (blocks.block_end - blocks.block_start).double()
        stride = (length / float(self.base) ** (blocks.block_step + 1).double()).long().clamp_min(1)
        return view.eligible & ((view.positions - blocks.block_start[:, None]) % stride[:, None] == 0), state


@dataclass(frozen=True)
class AllOrNothing(Selector):
    """Commit everything where everything reaches ``threshold``, or is one position; else nothing at the first step of a
    block, of which a probe then makes versions, and the best position at others.

    Raises:
        SettingsError: a threshold outside (0, 1.01].
    """

    threshold: float = 0.8

    idle_steps = 1  # a block; the decoder's own bound covers the others

    def __post_init__(self) -> None:
        within("(0, 1.01]", threshold=self.threshold)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        every = ((view.scores >= self.threshold) | ~view.eligible).all(dim=1) | (view.eligible.sum(dim=1) <= 1)
        later = (view.blocks.block_step > 0)[:, None]
        return every[:, None] | (later & (view.rank(view.scores) < 1)), state
