"""What samplers do about end tokens: ban them, distrust them, put them last, stop behind them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import LogitTransform, ScoreModifier, StopRule
from dlm.engine.proposal import BANNED
from dlm.engine.step import BlockState, LogitRows, RowSize, StepView
from dlm.errors import SettingsError
from samplers.settings import at_least


@dataclass(frozen=True)
class BanEnd(LogitTransform):
    """The end-of-text id is never proposed and has no probability (LLaDA's ``logits_eos_inf``). The end of a turn,
    where a model has one, stays possible."""

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: None) -> tuple[Float[Tensor, "R V"], None]:
        logits[:, at.canvas.end_ids[0]] = BANNED
        return logits, state


# Below every score of a position that may go first, above -inf, which means "not eligible".
_LAST = -1e30
# At or below this a position has been put last: what is learned does not see that, and must not overrule it.
PUT_LAST = -1e29


@dataclass(frozen=True)
class SuppressEnd(ScoreModifier):
    """A position whose proposal is an end token is committed after all others (what LLaDA's ``confidence_eos_eot_inf``
    sets out to do; what its code does is ``Proposer(end_confidence="aliased")``)."""

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.scores is not None
        ends = reduce(torch.logical_or, (view.proposal.token == end_id for end_id in view.canvas.end_ids))
        return view.scores.masked_fill(ends, _LAST), state


@dataclass(frozen=True)
class EndRejection(ScoreModifier):
    """Multiply the score of a position whose proposal is the end-of-text id with a factor that rises from ``low`` to
    ``high`` (EOSER, arXiv 2509.23924). Other end ids are left alone.

    ``schedule="linear"``: low + (high - low) j / (steps - 1) at step j; ``"ascending"``, for the step sizes of ASS:
    low + (high - low) (2^(j+1) - 1) / 2^steps. ``steps=None``: what ``tokens_per_step`` positions a step take (linear),
    or log2 of the positions (ascending). ``compat="reference"`` counts j anew in every block, as the published
    loop does, which then never reaches ``high``; clean counts over the row.

    Raises:
        SettingsError: factors outside [0, 1], low above high, steps or tokens_per_step below 1, an unknown schedule or
            compat.
    """

    low: float = 0.4
    high: float = 1.0
    steps: int | None = None
    schedule: Literal["linear", "ascending"] = "linear"
    compat: Literal["clean", "reference"] = "clean"
    tokens_per_step: int = 1

    # Scores are scaled, so they must not be negative (see dlm.engine.sampler).
    scales = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise SettingsError(f"low and high must satisfy 0 <= low <= high <= 1, got {self.low} and {self.high}")
        at_least(1, steps=self.steps, tokens_per_step=self.tokens_per_step)

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.scores is not None
        blocks, canvas = view.blocks, view.canvas
        j = (blocks.block_step if self.compat == "reference" else blocks.step).double()
        whole = canvas.kept(self, lambda: self._whole(canvas))
        if self.schedule == "linear":
            share = (j / whole).nan_to_num(nan=1.0, posinf=1.0)  # a single step is the last one
        else:
            share = (2.0 ** (j + 1) - 1) / whole
        factor = self.low + (self.high - self.low) * share.clamp_max(1.0)
        ends = view.proposal.token == canvas.end_ids[0]
        return torch.where(ends, view.scores * factor[:, None].to(view.scores.dtype), view.scores), state

    def _whole(self, canvas: Canvas) -> Float[Tensor, " B"]:
        """What the share is of: the steps but one, or two to their power."""
        region = canvas.region.double()
        steps = torch.full_like(region, self.steps) if self.steps is not None else None
        if self.schedule == "linear":
            if steps is None:
                steps = region if self.tokens_per_step == 1 else torch.ceil(region / self.tokens_per_step)
            return steps - 1
        steps = region.log2().floor() if steps is None else steps
        power: Tensor = 2.0**steps
        return power


@dataclass(frozen=True)
class EndBlock(StopRule):
    """When a completed block holds the end-of-text id, everything after it becomes that id and the row is finished
    (dInfer's early stop, arXiv 2510.08666). A policy, not a no-op: later blocks are never computed."""

    def after_block(self, canvas: Canvas, blocks: BlockState, closed: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        end_id = canvas.end_ids[0]
        block = canvas.inside(blocks.block_start, blocks.block_end) & canvas.writable
        ended = closed & (block & (canvas.tokens == end_id)).any(dim=1)
        return torch.where(ended, end_id, -1)


Rule = Literal["decoded", "complete", "reached", "accepted", "reference"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class EndOfText(StopRule):
    """Let a row end behind the end-of-text id as soon as it is known to be there (EoTP of Learn2PD, arXiv 2509.25188).
    What lies behind is no longer fed nor attended to, and later blocks are never opened; masked positions before it
    go on being decoded. It changes what the model sees, so it is not lossless (but for ``reached``).

    ``rule``: when the end is known.

    - ``decoded``: behind the leftmost end-of-text id that has been written (what the paper describes).
    - ``complete``: the same, once the block is complete.
    - ``reached``: the same, once nothing before it is masked any more: then the text is what it would have been.
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
        if self.rule == "reference" and view.accepted is None:
            return self._foretold(view, chosen)
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
        if self.rule == "reached":
            ends &= ~canvas.masked.cummax(dim=1).values
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
