"""CCD: positions that stayed in view with the same token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.settings import at_least, within

Rows = Int[Tensor, " B"]


class Coherence(NamedTuple):
    """What CCD remembers.

    Attributes:
        buffer: positions ranked right behind those committed at the step before. ``[B, W]``
        token: the proposal of every position at the step before. ``[B, W]``
        size: present size of the buffer. ``[B]``
    """

    buffer: Bool[Tensor, "B W"]
    token: Int[Tensor, "B W"]
    size: Int[Tensor, " B"]


@dataclass(frozen=True)
class Coherent(Selector):
    """Coherent contextual decoding (CCD, arXiv 2512.02044), as its code does it.

    With u = floor(G / steps), at least 1: rank by the score. After ``warm_up`` steps, and but for the last one, if the
    top u meet the buffer of positions that ranked next at the step before: commit those of the best V that are in the
    buffer and still propose the same token, all of them with ``seek`` (CCD-DS), else the first u; if fewer than u
    agree, or the buffer is missed, commit the top u. V is 1 at first, then grows by one each step to u + floor(expand
    u), and falls back when a tenth of the positions is left. ``steps=None``: one per position.

    The paper describes an average over the last distributions instead (UNVERIFIED, secondary notes); that is not what
    the published code does and not what this does.

    Raises:
        SettingsError: steps below 1, or expand below 0.
    """

    seek: bool = False
    steps: int | None = None
    expand: float = 4.0
    warm_up: int = 5

    block_schedules = (Whole,)
    compares_steps = True

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, warm_up=self.warm_up)
        within("[0, 1e9]", expand=self.expand)

    def check(self, region: int, block: int) -> None:
        if self.steps is not None and self.steps > region:
            raise SettingsError(f"steps={self.steps} is more than the {region} positions to fill: use at most {region}")

    def init(self, canvas: Canvas) -> Coherence:
        return Coherence(
            torch.zeros_like(canvas.writable), torch.full_like(canvas.tokens, -1), torch.ones_like(canvas.start)
        )

    def step(self, view: StepView, state: Coherence) -> tuple[Bool[Tensor, "B N"], Coherence]:
        assert view.scores is not None
        blocks, total = view.blocks, view.blocks.block_masks
        left = view.eligible.sum(dim=1)
        unit = torch.ones_like(total) if self.steps is None else (total // self.steps).clamp_min(1)
        size = self._size(blocks.step, left, total, unit, state.size)

        places = rank(view.scores)
        top = (places < unit[:, None]) & view.eligible
        buffered = state.buffer.gather(1, view.positions) & view.eligible
        same = view.proposal.token == state.token.gather(1, view.positions)
        agreed = (places < size[:, None]) & buffered & same & view.eligible
        count = agreed.sum(dim=1)
        if not self.seek:
            best_first = rank(view.scores.masked_fill(~agreed, -torch.inf))
            agreed = agreed & (best_first < unit[:, None])
        follow = (top & buffered).any(dim=1) & (count >= unit) & (blocks.step >= self.warm_up) & (left > unit)
        chosen = torch.where(follow[:, None], agreed, top)

        # Buffers are kept from the last but one warm-up step on; tokens from the last one.
        behind = rank(view.scores.masked_fill(chosen, -torch.inf)) < size[:, None]
        keep = (blocks.step >= self.warm_up - 2)[:, None]
        buffer = (view.on_canvas((behind & view.eligible & ~chosen).float()) > 0) & keep
        token = view.on_canvas(view.proposal.token, -1)
        token = torch.where((blocks.step >= self.warm_up - 1)[:, None], token, torch.full_like(token, -1))
        return chosen, Coherence(buffer, token, size)

    def _size(self, step: Rows, left: Rows, total: Rows, unit: Rows, before: Rows) -> Rows:
        """V of this step."""
        grown = torch.where(10 * left <= total, torch.ones_like(before), before) + 1
        grown = torch.minimum(grown, unit + torch.floor(self.expand * unit).long())
        return torch.where(step < self.warm_up - 1, torch.ones_like(before), grown)
