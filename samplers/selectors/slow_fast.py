"""SlowFast: explore slowly, then fill quickly what proved convergent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.settings import at_least


class Cycle(NamedTuple):
    """Where a row stands in its block.

    Attributes:
        done: positions of the block that finished cycles cover. ``[B]``
        estimates: the last estimates of how far the present cycle reaches, 0 where there is none. ``[B, K]``
        length: how far it will reach, 0 while unknown. ``[B]``
        settled: whether the estimates agreed. ``[B]``
        slow: forwards of the slow phase in the present cycle. ``[B]``
        cut: end of what the next forward is fed, absolute. ``[B]``
    """

    done: Int[Tensor, " B"]
    estimates: Float[Tensor, "B K"]
    length: Int[Tensor, " B"]
    settled: Bool[Tensor, " B"]
    slow: Int[Tensor, " B"]
    cut: Int[Tensor, " B"]


@dataclass(frozen=True)
class SlowFast(Selector):
    """Cycles of a slow and a fast phase (Slow-Fast sampling, arXiv 2506.10848; details of its code).

    Slow: ``explore`` forwards. Each estimates how far the block can be filled: up to the farthest open position with
    score >= ``low``. Once ``window`` estimates have a standard deviation < ``deviation`` the last one is the cycle's
    length; at the end of the phase the floor of their mean is. Fast: until that length is full; from its second forward
    on the row is fed only up to there. Both commit all positions (fast: within the length) with score >= ``high`` if
    there are several, else the best one.

    Unlike the published loop nothing is fed once the block is full.

    Raises:
        SettingsError: levels outside [0, 1] or low above high, a window below 1 or above explore, a deviation below 0.
    """

    explore: int = 6
    window: int = 2
    deviation: float = 1.0
    low: float = 0.3
    high: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise SettingsError(f"low and high must satisfy 0 <= low <= high <= 1, got {self.low} and {self.high}")
        at_least(1, explore=self.explore, window=self.window)
        if self.window > self.explore:
            raise SettingsError(f"window must be in [1, explore={self.explore}], got {self.window}")
        if not self.deviation >= 0:
            raise SettingsError(f"deviation must be 0 or more, got {self.deviation}")

    def init(self, canvas: Canvas) -> Cycle:
        zero, none = torch.zeros_like(canvas.start), torch.zeros_like(canvas.start, dtype=torch.bool)
        # More estimates than a block has forwards are never there.
        window = min(self.window, canvas.tokens.shape[1] + 1)
        estimates = torch.zeros(len(zero), window, device=zero.device)
        return Cycle(zero, estimates, zero, none, zero, canvas.end)

    def visible_end(self, canvas: Canvas, state: Cycle) -> Int[Tensor, " B"]:
        return state.cut

    def step(self, view: StepView, state: Cycle) -> tuple[Bool[Tensor, "B N"], Cycle]:
        assert view.scores is not None
        done, estimates, length, settled, slow = _where(view.blocks.block_step > 0, state[:5])
        start, size = view.blocks.block_start, view.blocks.block_end - view.blocks.block_start
        offset, slowly = view.positions - start[:, None], slow < self.explore
        inside = offset >= done[:, None]
        region = inside & (offset < torch.where(slowly, size, length)[:, None])
        scores = torch.where(region, view.scores, view.canvas.number(-torch.inf, view.scores.dtype))
        sure = scores >= self.high
        best = (view.canvas.columns[: scores.shape[1]] == scores.argmax(dim=1, keepdim=True)) & region
        chosen = torch.where(sure.sum(dim=1, keepdim=True) > 1, sure, best)

        # This slow forward's estimate of the length: up to the farthest position that is not hopeless.
        farthest = ((offset + 1) * (scores >= self.low)).amax(dim=1)
        estimate = torch.minimum(torch.maximum(farthest, done + 1), size).clamp_min_(1)
        pushes = slowly & ~settled
        pushed = torch.cat([estimates[:, 1:], estimate[:, None]], dim=1)
        estimates = torch.where(pushes[:, None], pushed, estimates)
        full = (estimates > 0).all(dim=1)
        settles = full & (estimates.std(dim=1, correction=0) < self.deviation)
        guess = torch.where(full & ~settles, estimates.mean(dim=1).long(), estimate)
        length = torch.where(pushes, guess, length)
        settled, slow = settled | (pushes & settles), slow + slowly

        left = view.eligible & ~chosen & inside & (offset < length[:, None])
        over = (slow >= self.explore) & ~left.any(dim=1)
        # From the second fast forward on the row is cut off; the next cycle begins where this one is over.
        cut = torch.where(slowly | over, view.canvas.end, start + length)
        done = torch.where(over, length, done)
        estimates, length, settled, slow = _where(~over, (estimates, length, settled, slow))
        return chosen, Cycle(done, estimates, length, settled, slow, cut)


def _where(goes_on: Bool[Tensor, " B"], memory: Sequence[Tensor]) -> list[Tensor]:
    """The memory of rows that go on, zeros for the others."""
    return [x * goes_on.view(-1, *[1] * (x.dim() - 1)) for x in memory]
