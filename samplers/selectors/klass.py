"""KLASS: what is sure and has stopped moving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import BlockState, RowSize, StepView
from dlm.errors import SettingsError
from samplers.settings import at_least, within


@dataclass(frozen=True)
class Klass(Selector):
    """Commit every position with score > ``threshold`` whose distribution moved less than ``divergence`` nats at each
    of the last ``history`` forwards; when there is none, the best ones of the budget (KLASS, arXiv 2511.05664).

    The movement is KL(now || the forward before), for the raw distribution. The reference keeps the whole previous
    distribution of the sequence; here the previous hidden states are kept and scored again, which gives the same number
    for the price of a second head pass. As in the reference's LLaDA loop nothing is ready before step ``history`` - 1
    of a block.

    ``compat="d2cache"``: that repository's loop: ``>=`` at the threshold, no waiting at the start of a block, and the
    movement of positions outside the block is remembered, for which all masked positions are scored.

    Raises:
        SettingsError: threshold outside [0, 1], no number for divergence, history below 1, an unknown compat.
    """

    threshold: float = 0.9
    divergence: float = 0.01
    history: int = 2
    compat: Literal["clean", "d2cache"] = "clean"

    uses_budget = always_commits = True
    needs = frozenset[Statistic]({"kl"})

    def __post_init__(self) -> None:
        within("[0, 1]", threshold=self.threshold)
        if math.isnan(self.divergence):
            raise SettingsError("divergence is a number of nats, got NaN")
        at_least(1, history=self.history)

    def init(self, canvas: Canvas) -> Float[Tensor, "B W H"]:
        """The last movements of every position, newest last; inf where there were none."""
        # A block never takes more forwards than it has positions, so what no block can reach needs no room.
        history = min(self.history, canvas.tokens.shape[1])
        return torch.full((*canvas.tokens.shape, history), torch.inf, device=canvas.tokens.device)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"] | None:
        return canvas.masked if self.compat == "d2cache" else None

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.region if self.compat == "d2cache" else eligible

    def forget(self, where: Bool[Tensor, "B W"], state: Float[Tensor, "B W H"]) -> Float[Tensor, "B W H"]:
        return state.masked_fill(where[..., None], torch.inf)

    def step(self, view: StepView, state: Float[Tensor, "B W H"]) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B W H"]]:
        assert view.scores is not None
        assert view.budget is not None
        assert view.proposal.kl is not None
        moved = view.on_canvas(view.proposal.kl.float(), torch.inf)
        state = torch.cat([state[..., 1:], moved[..., None]], dim=2)
        stable = (state < self.divergence).all(dim=2).gather(1, view.positions)
        if self.compat == "d2cache":
            ready = stable & (view.scores >= self.threshold)
        else:
            waited = view.blocks.block_step >= self.history - 1
            ready = stable & (view.scores > self.threshold) & waited[:, None]
        fallback = view.rank(view.scores) < view.budget[:, None]
        return torch.where(ready.any(dim=1, keepdim=True), ready, fallback), state
