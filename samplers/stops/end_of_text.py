"""End-of-text prediction: what lies behind the end of the answer is taken away while the answer is still open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import StopRule
from dlm.engine.step import BlockState, RowSize, StepView
from dlm.errors import SettingsError

Rule = Literal["decoded", "complete", "accepted", "reference"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class EndOfText(StopRule):
    """Let a row end behind the end-of-text id as soon as it is known to be there (EoTP of Learn2PD, arXiv 2509.25188).
    What lies behind is no longer fed nor attended to, and later blocks are never opened; masked positions before it
    go on being decoded. It changes what the model sees, so it is not lossless.

    ``rule``: when the end is known.

    - ``decoded``: behind the leftmost end-of-text id that has been written (what the paper describes).
    - ``complete``: the same, once the block is complete.
    - ``accepted``: behind the leftmost one that the selector accepted at this step for its own sake, not only so that
      there is progress; a selector that makes no such difference accepts all it commits.
    - ``reference``: as ``accepted``; where nothing is found, behind a masked position, in the block or after it, whose
      proposal is that id, however unsure, and although another token may be committed there later (the published
      code). Over a cache that keeps keys only the block is looked at, as published.

    ``choice``: of several such masked positions the surest (``argmax``) or the ``leftmost``; ``min_confidence``: only
    those with at least this probability. Both are read by ``reference`` alone.

    Raises:
        SettingsError: an unknown rule or choice, min_confidence outside [0, 1], settings that the rule does not read.
    """

    rule: Rule = "decoded"
    choice: Literal["argmax", "leftmost"] = "argmax"
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise SettingsError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        if self.choice not in ("argmax", "leftmost"):
            raise SettingsError(f"choice must be 'argmax' or 'leftmost', got {self.choice!r}")
        if not 0.0 <= self.min_confidence <= 1.0:
            raise SettingsError(f"min_confidence is a probability, in [0, 1], got {self.min_confidence}")
        if self.rule != "reference" and (self.choice, self.min_confidence) != ("argmax", 0.0):
            raise SettingsError(
                f"choice and min_confidence belong to rule=reference, rule={self.rule} reads neither: leave them out"
            )

    @property
    def asks_accepted(self) -> bool:
        """Of the rules that ask what the selector was sure of."""
        return self.rule in ("accepted", "reference")

    def after_block(self, canvas: Canvas, blocks: BlockState, closed: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        return torch.full_like(canvas.start, -1)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        ahead = canvas.masked & (canvas.columns >= blocks.block_start[:, None])
        return ahead if self.rule == "reference" else torch.zeros_like(ahead)

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.region if self.rule == "reference" else eligible

    def new_end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> Int[Tensor, " B"]:
        canvas = view.canvas
        if not self.asks_accepted:
            return self._written(view)
        accepted = chosen if view.accepted is None else chosen & view.accepted
        # A token that a reviser has just taken back, or another one has replaced, is no longer there.
        there = canvas.tokens.gather(1, view.positions) == canvas.end_ids[0]
        found = accepted & there
        first = self._behind_first(view, found)
        return first if self.rule == "accepted" else torch.where(found.any(dim=1), first, self._foretold(view, chosen))

    def _written(self, view: StepView) -> Int[Tensor, " B"]:
        """Behind the leftmost end-of-text id on the canvas, given tokens left out."""
        canvas, blocks = view.canvas, view.blocks
        ends = canvas.writable & (canvas.tokens == canvas.end_ids[0]) & canvas.inside(canvas.start, canvas.end)
        if self.rule == "complete":
            ends &= ~(canvas.masked & blocks.block).any(dim=1, keepdim=True)
        first = torch.where(ends, canvas.columns + 1, canvas.scratch + 1).amin(dim=1)
        return torch.minimum(first, canvas.end)

    def _behind_first(self, view: StepView, where: Bool[Tensor, "B N"]) -> Int[Tensor, " B"]:
        behind = torch.where(where, view.positions + 1, view.canvas.scratch + 1)
        return torch.minimum(behind.amin(dim=1), view.canvas.end)

    def _foretold(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> Int[Tensor, " B"]:
        """Behind one of the positions that were masked at the forward and whose proposal is the end-of-text id."""
        canvas, prob = view.canvas, view.proposal.prob
        ahead = canvas.masked & (canvas.columns >= view.blocks.block_start[:, None])
        ends = (view.eligible | view.here(ahead)) & (view.proposal.token == canvas.end_ids[0])
        # A row that has chosen nothing may be one whose step was not taken.
        ends &= (prob >= self.min_confidence) & chosen.any(dim=1, keepdim=True)
        if self.choice == "argmax":
            surest = prob.masked_fill(~ends, -torch.inf)
            ends &= surest == surest.amax(dim=1, keepdim=True)
        return self._behind_first(view, ends)
