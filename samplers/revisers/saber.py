"""Saber: commit everything surer than what was committed so far; what has gained least is masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser, Selector
from dlm.engine.step import BlockState, RowSize, StepView
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

    always_commits = True

    def __post_init__(self) -> None:
        at_least(1, minimum=self.minimum)

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        """Confidence of each position at its last commit, NaN if there was none."""
        return torch.full(canvas.tokens.shape, torch.nan, dtype=torch.float64, device=canvas.tokens.device)

    def step(self, view: StepView, state: Float[Tensor, "B W"]) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B W"]]:
        assert view.scores is not None
        mean = state.nanmean(dim=1).nan_to_num(nan=1.0)
        above = view.scores.double() > mean[:, None]
        few = above.sum(dim=1, keepdim=True) < self.minimum
        chosen = torch.where(few, view.rank(view.scores) < self.minimum, above) & view.eligible
        known = torch.where(chosen, view.proposal.prob.double(), state.gather(1, view.positions))
        return chosen, state.scatter(1, view.positions, known)


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
        masked, block = view.canvas.masked, view.blocks.block & view.canvas.writable
        prob = view.proposal.prob.to(state.dtype)
        beyond = view.canvas.columns >= view.blocks.block_end[:, None]
        # How far it has fallen; -inf for what was behind the block, and for what is no token of it (masked if in it).
        fallen = state.gather(1, view.positions) - prob
        fallen.masked_fill_((block <= masked).gather(1, view.positions), -torch.inf)
        state = state.scatter(1, view.positions, prob).masked_fill_(beyond, -torch.inf)
        # Fewer than really were committed: the end of a block may have fewer than the minimum.
        committed, least = chosen.sum(dim=1), max(self.minimum // 2, -(-self.minimum // 8))
        number = torch.minimum(((committed + 7) // 8).clamp_min_(least), committed - 1)
        number = number * (block & masked).any(dim=1)
        again = (view.rank(fallen) < number[:, None]) & (fallen > -torch.inf)
        return view.marks(again), state
