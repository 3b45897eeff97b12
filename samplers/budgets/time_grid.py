"""Dream's time grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Budget
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.settings import at_least, within


@dataclass(frozen=True)
class TimeGrid(Budget):
    """Of n masked positions commit n (1 - s/t), for t and s neighbours on a grid of ``steps`` intervals from 1 down to
    ``eps``; the last step commits all that is left (Dream 7B, arXiv 2508.15487). n is the row's own count; the
    reference takes the mean over the batch.

    ``compat="reference"`` truncates the number, which is what the published figures were made with; the first step then
    often commits nothing. ``compat="clean"`` rounds it and commits at least one. ``steps=None``: one per position.

    Raises:
        SettingsError: steps below 1, eps outside (0, 1), unknown ``compat``.
    """

    steps: int | None = None
    eps: float = 1e-3
    compat: Literal["clean", "reference"] = "reference"

    block_schedules = (Whole,)
    order_known = True

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        within("(0, 1)", eps=self.eps)

    @property
    def idle_steps(self) -> int:
        # Without a number of steps the grid has one per position, which the decoder's own bound covers.
        return (self.steps or 1) if self.compat == "reference" else 0

    def check(self, region: int, block: int) -> None:
        if block < region:
            raise SettingsError(
                f"Dream's time grid runs over the whole canvas of {region} positions, not over blocks of {block}:"
                " use blocks=whole"
            )
        most = max(4096, 4 * region)
        if self.compat == "reference" and self.steps is not None and self.steps > most:
            raise SettingsError(
                f"steps={self.steps} for {region} positions: nearly all of these forwards would commit nothing; use at"
                f" most {most}, or compat=clean"
            )

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        number = view.eligible.sum(dim=1) * grid_share(self, view)
        if self.compat == "clean":
            return number.round().long().clamp_min(1), state
        return number.long(), state


def grid_share(grid: TimeGrid, view: StepView) -> Float[Tensor, " B"]:
    """1 - s/t for each row's step, exactly 1 in the last step and behind it."""
    shares = view.canvas.kept(grid, lambda: _shares(grid, view.canvas))
    return shares.gather(1, view.blocks.step[:, None].clamp_max(shares.shape[1] - 1)).squeeze(1)


def _shares(grid: TimeGrid, canvas: Canvas) -> Float[Tensor, "B S"]:
    """1 - s/t for every step of the grid, in float32 like the reference: rounding decides where a truncated number just
    misses an integer."""
    # Not the masks of the block: a stop rule may cut it short, and the grid stays what it was.
    writable = canvas.writable.sum(dim=1)
    steps = (writable if grid.steps is None else torch.full_like(writable, grid.steps))[:, None]
    # The k-th point of torch.linspace(1, eps, steps + 1), which counts from the nearer end.
    # A row takes no more steps than the decoder lets it: 4 a position, and those that check() allows to idle.
    most = max(4096, 4 * canvas.scratch)
    k = torch.arange(min(grid.steps or canvas.scratch, most) + 1, device=steps.device)
    behind, stride = steps - k, (grid.eps - 1.0) / steps.float()
    time = torch.where(k <= behind, 1.0 + k * stride, grid.eps - behind * stride)
    return (1.0 - time[:, 1:] / time[:, :-1]).masked_fill_(behind[:, 1:] <= 0, 1.0)
