"""WINO: commit boldly, and take back what the rest of the row does not support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser, Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.settings import within


@dataclass(frozen=True)
class WideIn(Selector):
    """Commit the positions with score > ``threshold``, but no more than a ``share`` of the open ones, and that at least
    ``least`` and at most ``most``; the best position always (WINO, arXiv 2507.18578; the cap is in its code only).

    Raises:
        SettingsError: threshold or share outside [0, 1], or least above most.
    """

    threshold: float = 0.6
    share: float = 0.7
    least: int = 5
    most: int = 20

    def __post_init__(self) -> None:
        within("[0, 1]", threshold=self.threshold, share=self.share)
        if not 1 <= self.least <= self.most:
            raise SettingsError(f"least and most must satisfy 1 <= least <= most, got {self.least} and {self.most}")

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        open_ = view.eligible.sum(dim=1, keepdim=True)
        cap = (open_ * self.share + 1e-9).long().clamp(self.least, self.most)
        return (view.scores > self.threshold) & (view.rank(view.scores) < cap), state


class Accepted(NamedTuple):
    """What WINO remembers of the active block.

    Attributes:
        kept: positions committed in earlier steps and not taken back. ``[B, W]``
        last: how many the step before committed. ``[B]``
    """

    kept: Bool[Tensor, "B W"]
    last: Int[Tensor, " B"]


@dataclass(frozen=True)
class NarrowOut(Reviser):
    """Remask tokens committed in earlier steps of the block whose probability, in the shadow block that does not see
    them, is < ``threshold`` (WINO, arXiv 2507.18578). Only after a step that committed more than one token, and always
    fewer than the step before committed, so that the row gains at least one token a step on average.

    Raises:
        SettingsError: threshold outside [0, 1].
    """

    threshold: float = 0.9

    partners = (WideIn,)
    needs = frozenset[Statistic]({"shadow"})

    def __post_init__(self) -> None:
        within("[0, 1]", threshold=self.threshold)

    def init(self, canvas: Canvas) -> Accepted:
        return Accepted(torch.zeros_like(canvas.writable), torch.zeros_like(canvas.start))

    def step(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Accepted
    ) -> tuple[Bool[Tensor, "B W"], Accepted]:
        assert view.shadow is not None
        accepted = chosen.sum(dim=1)
        kept = state.kept & (view.blocks.block_step > 0)[:, None]
        doubted = kept & (view.shadow < self.threshold)
        doubt = torch.where(doubted, view.shadow, view.canvas.number(torch.inf, view.shadow.dtype))
        lowest = view.rank(-doubt)
        allowed = (state.last - 1) * (accepted > 1)
        again = doubted & (lowest < allowed[:, None])
        return again, Accepted((kept & ~again) | view.marks(chosen), accepted)
