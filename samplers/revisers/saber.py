"""Saber: commit everything surer than what was committed so far; what has gained least is masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser, Selector
from dlm.engine.step import BlockState, RowSize, StepView, rank
from samplers.settings import at_least


@dataclass(frozen=True)
class MeanThreshold(Selector):
    """Commit every position with score > the mean confidence at which positions have been committed so far (1 before
    the first), at least the ``minimum`` best (Saber, arXiv 2510.18165). Positions that were taken back stay in the
    mean, as in the published code.

    Raises:
        SettingsError: a minimum below 1.
    """

    minimum: int = 2

    def __post_init__(self) -> None:
        at_least(1, minimum=self.minimum)

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        """Confidence of each position at its last commit, NaN if there was none."""
        return torch.full(canvas.tokens.shape, torch.nan, dtype=torch.float64, device=canvas.tokens.device)

    def step(self, view: StepView, state: Float[Tensor, "B W"]) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B W"]]:
        assert view.scores is not None
        mean = state.nanmean(dim=1).nan_to_num(nan=1.0)
        above = (view.scores > mean[:, None]) & view.eligible
        few = above.sum(dim=1, keepdim=True) < self.minimum
        chosen = torch.where(few, rank(view.scores) < self.minimum, above) & view.eligible
        new = view.on_canvas(view.proposal.prob.double().masked_fill(~chosen, torch.nan), torch.nan)
        return chosen, torch.where(new.isnan(), state, new)


@dataclass(frozen=True)
class FallingConfidence(Reviser):
    """After a step that committed F positions (at least ``minimum`` = n), remask min(max(floor(n / 2), ceil(F / 8)),
    F - 1) committed positions of the block: those whose probability of the best token has risen least since the
    forward before; those that were behind the block then are spared (Saber, arXiv 2510.18165). Fewer than were
    committed, so every step makes progress. Nothing is remasked once the block is full.

    Raises:
        SettingsError: a minimum below 1.
    """

    minimum: int = 2

    partners = (MeanThreshold,)

    def __post_init__(self) -> None:
        at_least(1, minimum=self.minimum)

    def fits(self, selector: MeanThreshold) -> str | None:
        """Why the two would not come to an end together."""
        if selector.minimum == self.minimum:
            return None
        return f"minimum is {self.minimum} here and {selector.minimum} there, give both the same"

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        """Probability of the best token of each position at the forward before; 0 at first, -inf behind the block."""
        return torch.zeros(canvas.tokens.shape, dtype=torch.float64, device=canvas.tokens.device)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return canvas.writable & (canvas.columns < blocks.block_end[:, None])

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.region

    def step(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Float[Tensor, "B W"]
    ) -> tuple[Bool[Tensor, "B W"], Float[Tensor, "B W"]]:
        prob = view.proposal.prob.to(state.dtype)
        risen = prob - state.gather(1, view.positions)
        beyond = view.canvas.columns >= view.blocks.block_end[:, None]
        state = torch.where(view.on_canvas(torch.ones_like(prob)) > 0, view.on_canvas(prob), state)
        state = state.masked_fill(beyond, -torch.inf)
        committed = chosen.sum(dim=1).clamp_min(self.minimum)
        number = torch.minimum((committed + 7) // 8, committed - 1).clamp_min(0)
        number = torch.minimum(number.clamp_min(self.minimum // 2), committed - 1)
        # At most one less than really were committed: the end of a block may have fewer than the minimum.
        number = torch.minimum(number, (chosen.sum(dim=1) - 1).clamp_min(0))
        block = view.blocks.block & view.canvas.writable
        open_ = (block & view.canvas.masked).any(dim=1, keepdim=True)
        candidates = view.here(block & ~view.canvas.masked) & risen.isfinite()
        lowest = rank((-risen).masked_fill(~candidates, -torch.inf)) < number[:, None]
        return view.on_canvas((lowest & candidates & open_).float()) > 0, state
