"""Saber's backtracking: what has gained least is masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser
from dlm.engine.step import BlockState, RowSize, StepView, rank
from dlm.errors import SettingsError
from samplers.selectors.mean_threshold import MeanThreshold


@dataclass(frozen=True)
class FallingConfidence(Reviser):
    """After a step that committed F positions (at least ``minimum`` = n), remask min(max(floor(n / 2), ceil(F / 8)),
    F - 1) committed positions of the block: those whose probability of the best token has risen least since the
    forward before (Saber, arXiv 2510.18165). Fewer than were committed, so every step makes progress. Nothing is
    remasked once the row is full.

    Raises:
        SettingsError: a minimum below 1.
    """

    minimum: int = 2

    partners = (MeanThreshold,)

    def __post_init__(self) -> None:
        if self.minimum < 1:
            raise SettingsError(f"minimum must be at least 1, got {self.minimum}")

    def fits(self, selector: MeanThreshold) -> str | None:
        """Why the two would not come to an end together."""
        if selector.minimum == self.minimum:
            return None
        return f"minimum is {self.minimum} here and {selector.minimum} there, give both the same"

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        """Probability of the best token of each position at the forward before; 0 at first."""
        return torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return canvas.writable & (canvas.columns < blocks.block_end[:, None])

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.region

    def step(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Float[Tensor, "B W"]
    ) -> tuple[Bool[Tensor, "B W"], Float[Tensor, "B W"]]:
        prob = view.proposal.prob.float()
        risen = prob - state.gather(1, view.positions)
        state = torch.where(view.on_canvas(torch.ones_like(prob)) > 0, view.on_canvas(prob), state)
        committed = chosen.sum(dim=1).clamp_min(self.minimum)
        number = torch.minimum((committed + 7) // 8, committed - 1).clamp_min(0)
        number = torch.minimum(number.clamp_min(self.minimum // 2), committed - 1)
        # At most one less than really were committed: the end of a block may have fewer than the minimum.
        number = torch.minimum(number, (chosen.sum(dim=1) - 1).clamp_min(0))
        open_ = view.canvas.masked.any(dim=1, keepdim=True)
        candidates = view.here(view.blocks.block & view.canvas.writable & ~view.canvas.masked)
        lowest = rank((-risen).masked_fill(~candidates, -torch.inf)) < number[:, None]
        return view.on_canvas((lowest & candidates & open_).float()) > 0, state
