"""Tokens that change after their commit, as long as their block is open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.step import BlockState, RowSize, StepView
from samplers.settings import at_least, within


@dataclass(frozen=True)
class Editing(Selector):
    """Commit every masked position with probability > ``threshold``, at least the ``minimum`` best ones, and at the
    same step put the proposal in place of every committed token of the block that differs from it where its probability
    is > ``editing`` (LLaDA2.1, arXiv 2602.08676, details of its code).

    A block without masks stays open until a step changes nothing, for at most ``most_edits`` steps: so its last forward
    was fed what it holds, unless the steps ran out. Two positions may rewrite each other for ever; only that bound ends
    it.

    Raises:
        SettingsError: a threshold outside (0, 1.01], editing outside [0, 1.01], minimum below 1, most_edits below 0.
    """

    threshold: float = 0.95
    editing: float = 0.9
    minimum: int = 1
    most_edits: int = 16

    rewrites = True

    def __post_init__(self) -> None:
        within("(0, 1.01]", threshold=self.threshold)
        within("[0, 1.01]", editing=self.editing)
        at_least(1, minimum=self.minimum)
        at_least(0, most_edits=self.most_edits)

    @property
    def most_held(self) -> int:
        return self.most_edits

    def init(self, canvas: Canvas) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Steps without a mask in the block so far, and whether it is held open."""
        return torch.zeros_like(canvas.start), torch.zeros_like(canvas.start, dtype=torch.bool)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return blocks.block & canvas.writable

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.block

    def holds(self, state: tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]) -> Bool[Tensor, " B"]:
        return state[1]

    def step(
        self, view: StepView, state: tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]
    ) -> tuple[Bool[Tensor, "B N"], tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]]:
        assert view.scores is not None
        masked, prob = view.eligible, view.proposal.prob
        filled = masked & ((prob > self.threshold) | (view.rank(view.scores) < self.minimum))
        here = view.here(view.blocks.block & view.canvas.writable) & ~masked
        differs = view.proposal.token != view.canvas.tokens.gather(1, view.positions)
        edited = here & differs & (prob > self.editing)
        done = ~masked.any(dim=1)
        steps = state[0].masked_fill(view.blocks.block_step == 0, 0) + done
        left = (masked & ~filled).any(dim=1)
        held = ~left & (steps < self.most_edits) & ~(done & ~edited.any(dim=1))
        return filled | edited, (steps, held)
