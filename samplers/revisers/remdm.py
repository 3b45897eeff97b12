"""ReMDM: a fixed budget with a pause in which the least certain tokens get another chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.interfaces import Budget, Reviser
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError
from samplers.settings import at_least, within


@dataclass(frozen=True)
class RemaskingLoop(Budget):
    """``tokens_per_step`` positions a step, and at ``start`` of a block's steps ``cycles`` extra steps of ``number``
    positions, which refill what :class:`samplers.RemaskLowest` with the same settings takes back (ReMDM on LLaDA,
    arXiv 2503.00307). ``cycles=None``: 32, or the block's open positions where those are fewer.

    Raises:
        SettingsError: a value below 1, start outside (0, 1), or more cycles than three times the block's positions.
    """

    tokens_per_step: int = 1
    cycles: int | None = None
    number: int = 1
    start: float = 0.875

    def __post_init__(self) -> None:
        at_least(1, tokens_per_step=self.tokens_per_step, cycles=self.cycles, number=self.number)
        within("(0, 1)", start=self.start)

    @property
    def each(self) -> int | None:
        """The same number, if the extra steps have it too."""
        return self.tokens_per_step if self.number == self.tokens_per_step else None

    def check(self, region: int, block: int) -> None:
        if self.cycles is not None and self.cycles > 3 * block:
            raise SettingsError(
                f"{self.cycles} remasking cycles in a block of {block} positions pass the bound of 4 forwards per"
                f" position: use at most {3 * block} cycles or longer blocks"
            )

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        if self.each is not None:
            return view.canvas.number(self.each, torch.long).expand_as(view.blocks.step), state
        looping = in_extra_cycles(self, view.blocks, view.blocks.block_step)
        return looping * (self.number - self.tokens_per_step) + self.tokens_per_step, state


def in_extra_cycles(loop: RemaskingLoop, blocks: BlockState, step: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Whether ``step`` of the block is one of the extra cycles."""
    each = loop.tokens_per_step
    steps = blocks.block_masks if each == 1 else (blocks.block_masks + (each - 1)) // each
    first = torch.minimum((steps.double() * loop.start).long(), steps - 1).clamp_min_(1)
    cycles = blocks.block_masks.clamp_max(32) if loop.cycles is None else loop.cycles
    return (step >= first) & (step < first + cycles)


@dataclass(frozen=True)
class RemaskLowest(Reviser):
    """Before every extra cycle of ``loop`` remask the tokens of the block that were committed with the lowest
    confidence, as many as the cycle commits again (ReMDM on LLaDA, arXiv 2503.00307)."""

    loop: RemaskingLoop

    partners = (RemaskingLoop,)

    def fits(self, budget: RemaskingLoop) -> str | None:
        """Why the two would not come to an end together."""
        return None if budget == self.loop else f"the loop is {self.loop} here and {budget} there, give both the same"

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Bool[Tensor, "B W"], None]:
        canvas, blocks = view.canvas, view.blocks
        next_is_extra = in_extra_cycles(self.loop, blocks, blocks.block_step + 1)
        # A block that is full has no step left to refill it.
        open_ = (blocks.block & canvas.masked).any(dim=1)
        # What no step has committed has no confidence, and NaN is sorted last.
        none = canvas.number(torch.nan, canvas.commit_confidence.dtype)
        confidence = torch.where(blocks.block, canvas.commit_confidence, none)
        lowest, places = (x[:, : self.loop.number] for x in confidence.sort(dim=1, stable=True))
        again = (lowest < torch.inf) & (next_is_extra & open_)[:, None]
        return torch.zeros_like(canvas.writable).scatter_(1, places, again), state
