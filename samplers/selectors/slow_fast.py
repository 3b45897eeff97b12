"""SlowFast: explore slowly, then fill quickly what proved convergent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError
from samplers.settings import at_least


class Cycle(NamedTuple):
    """Where a row stands in its block.

    Attributes:
        done: positions of the block that finished cycles cover. ``[B]``
        estimates: the last estimates of how far the present cycle reaches, NaN where there is none. ``[B, K]``
        length: how far it will reach, 0 while unknown. ``[B]``
        settled: whether the estimates agreed. ``[B]``
        slow, fast: forwards of each phase in the present cycle. ``[B]``
        cut: end of what the next forward is fed, absolute. ``[B]``
    """

    done: Int[Tensor, " B"]
    estimates: Float[Tensor, "B K"]
    length: Int[Tensor, " B"]
    settled: Bool[Tensor, " B"]
    slow: Int[Tensor, " B"]
    fast: Int[Tensor, " B"]
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
        estimates = torch.full((len(zero), window), torch.nan, device=zero.device)
        return Cycle(zero, estimates, zero, none, zero, zero, canvas.end)

    def visible_end(self, canvas: Canvas, state: Cycle) -> Int[Tensor, " B"]:
        return state.cut

    def step(self, view: StepView, state: Cycle) -> tuple[Bool[Tensor, "B N"], Cycle]:
        assert view.scores is not None
        state = self._begin(view, state)
        start, offset = view.blocks.block_start, view.positions - view.blocks.block_start[:, None]
        slowly = state.slow < self.explore
        until = torch.where(slowly, view.blocks.block_end - start, state.length)
        region = view.eligible & (offset >= state.done[:, None]) & (offset < until[:, None])
        scores = view.scores.masked_fill(~region, -torch.inf)
        sure = (scores >= self.high) & region
        best = (rank(scores) == 0) & region
        chosen = torch.where(sure.sum(dim=1, keepdim=True) > 1, sure, best)

        state = self._estimated(view, state, (scores >= self.low) & region, slowly)
        state = state._replace(slow=state.slow + slowly, fast=state.fast + ~slowly)
        inside = view.eligible & ~chosen & (offset >= state.done[:, None]) & (offset < state.length[:, None])
        over = (state.slow >= self.explore) & ~inside.any(dim=1)
        return chosen, self._turned(view, state, over)

    def _begin(self, view: StepView, state: Cycle) -> Cycle:
        """A new block starts from nothing."""
        fresh = self.init(view.canvas)
        new = view.blocks.block_step == 0
        pairs = (torch.where(new.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(fresh, state, strict=True))
        return Cycle(*pairs)

    def _estimated(self, view: StepView, state: Cycle, open_: Bool[Tensor, "B N"], slowly: Bool[Tensor, " B"]) -> Cycle:
        """The state after this slow forward's estimate of the length."""
        start, size = view.blocks.block_start, view.blocks.block_end - view.blocks.block_start
        farthest = (view.positions - start[:, None] + 1).masked_fill(~open_, 0).amax(dim=1)
        estimate = torch.where(farthest > 0, farthest, state.done + 1)
        estimate = torch.minimum(estimate, size).clamp_min(1)
        pushes = slowly & ~state.settled
        pushed = torch.cat([state.estimates[:, 1:], estimate[:, None].to(state.estimates.dtype)], dim=1)
        estimates = torch.where(pushes[:, None], pushed, state.estimates)
        full = ~estimates.isnan().any(dim=1)
        spread = estimates.nan_to_num().std(dim=1, correction=0)
        settles = pushes & full & (spread < self.deviation)
        mean = estimates.nan_to_num().mean(dim=1).floor().long()
        guess = torch.where(settles, estimate, torch.where(full, mean, estimate))
        length = torch.where(pushes, guess, state.length)
        return state._replace(estimates=estimates, length=length, settled=state.settled | settles)

    def _turned(self, view: StepView, state: Cycle, over: Bool[Tensor, " B"]) -> Cycle:
        """The next cycle where this one is ``over``; and what the next forward is fed."""
        truncated = (state.slow >= self.explore) & (state.fast >= 1) & ~over
        cut = torch.where(truncated, view.blocks.block_start + state.length, view.canvas.end)
        return Cycle(
            done=torch.where(over, state.length, state.done),
            estimates=state.estimates.masked_fill(over[:, None], torch.nan),
            length=state.length.masked_fill(over, 0),
            settled=state.settled & ~over,
            slow=state.slow.masked_fill(over, 0),
            fast=state.fast.masked_fill(over, 0),
            cut=cut,
        )
