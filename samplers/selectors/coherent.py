"""CCD: positions that stayed in view with the same token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.settings import at_least, within


class Coherence(NamedTuple):
    """What CCD remembers.

    Attributes:
        waiting: at the positions ranked right behind those committed at the step before (the buffer) their proposals,
            -1 elsewhere. ``[B, W]``
        size: present size of the buffer. ``[B]``
    """

    waiting: Int[Tensor, "B W"]
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
    compares_steps = always_commits = True

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, warm_up=self.warm_up)
        within("[0, 1e9]", expand=self.expand)

    def check(self, region: int, block: int) -> None:
        if self.steps is not None and self.steps > region:
            raise SettingsError(f"steps={self.steps} is more than the {region} positions to fill: use at most {region}")

    def init(self, canvas: Canvas) -> Coherence:
        return Coherence(torch.full_like(canvas.tokens, -1), torch.ones_like(canvas.start))

    def step(self, view: StepView, state: Coherence) -> tuple[Bool[Tensor, "B N"], Coherence]:
        assert view.scores is not None
        step, n = view.blocks.step[:, None], view.canvas.columns[: view.scores.shape[1]]
        size = self._size(view, state.size)[:, None]
        unit = 1 if self.steps is None else (view.blocks.block_masks // self.steps).clamp_min(1)[:, None]

        # From here to the choice everything stands in the order of the ranking.
        order = view.scores.sort(dim=1, descending=True, stable=True).indices
        at, token, open_ = (x.gather(1, order) for x in (view.positions, view.proposal.token, view.eligible))
        waiting, top = state.waiting.gather(1, at), n < unit
        agreed = (waiting == token) & (n < size)
        count = agreed.cumsum(dim=1)
        # Before the warm-up is over nothing waits; in the last step all that is left is the top.
        follow = ((waiting >= 0) & top).any(dim=1, keepdim=True) & (count[:, -1:] >= unit)
        chosen = torch.where(follow, agreed if self.seek else agreed & (count <= unit), top)

        left = open_ & ~chosen
        behind = left & (left.cumsum(dim=1) <= size) & (step >= self.warm_up - 1)
        token = torch.where(behind, token, view.canvas.number(-1, torch.long))
        waits = torch.full_like(state.waiting, -1).scatter_(1, at, token)
        return torch.empty_like(chosen).scatter_(1, order, chosen), Coherence(waits, size[:, 0])

    def _size(self, view: StepView, before: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """V of this step."""
        step, total = view.blocks.step, view.blocks.block_masks
        late = view.canvas.number(2, torch.long)
        grown = torch.where(10 * view.eligible.sum(dim=1) <= total, late, before + 1)
        if self.steps is None:
            grown.clamp_max_(1 + math.floor(self.expand))
        else:
            unit = (total // self.steps).clamp_min(1)
            grown = torch.minimum(grown, unit + torch.floor(self.expand * unit).long())
        return grown.masked_fill_(step < self.warm_up - 1, 1)
