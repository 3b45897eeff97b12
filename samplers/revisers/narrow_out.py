"""WINO's second half: take back what the rest of the row does not support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError
from samplers.selectors.wide_in import WideIn

# The published loop starts every block as if so many tokens had just been accepted.
_ACCEPTED_AT_START = 30


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

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise SettingsError(f"threshold must be in [0, 1], got {self.threshold}")

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"shadow"})

    def init(self, canvas: Canvas) -> Accepted:
        return Accepted(torch.zeros_like(canvas.writable), torch.full_like(canvas.start, _ACCEPTED_AT_START))

    def step(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Accepted
    ) -> tuple[Bool[Tensor, "B W"], Accepted]:
        assert view.shadow is not None
        fresh = view.blocks.block_step == 0
        kept = state.kept & ~fresh[:, None]
        last = state.last.masked_fill(fresh, _ACCEPTED_AT_START)
        accepted = chosen.sum(dim=1)
        doubted = kept & (view.shadow < self.threshold)
        lowest = rank((-view.shadow).masked_fill(~doubted, -torch.inf))
        allowed = torch.where(doubted.sum(dim=1) >= last, last - 1, doubted.sum(dim=1))
        again = doubted & (lowest < allowed[:, None]) & (accepted > 1)[:, None]
        now = view.on_canvas(chosen.float()) > 0
        return again, Accepted((kept & ~again) | now, accepted)
