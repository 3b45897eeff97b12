"""Delayed caches (dKV-Cache, arXiv 2505.15781): a key is kept only once its token was real when it was computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.settings import at_least
from cache.vicinity import window
from dlm.engine.row import Row
from dlm.engine.step import State


@dataclass(frozen=True)
class DKVDecode(Policy):
    """dKV-Cache-Decode: keys of decided positions are kept, one step late; everything masked is recomputed.

    The delay is the stamp rule: a position committed at step t is fed once more at t + 1, now with its token.

    Attributes:
        interval: steps between refreshes (the paper: 8 for LLaDA, 4 for Dream).
        cadence: ``seeded`` counts a row's steps and keeps the very first forward; ``reference`` counts within each
            block and recomputes everything in its first two steps, as the released code does.
        ahead: masked positions further than this behind the block are not recomputed either; None: all are.

    Raises:
        SettingsError: ``interval`` below 1, an unknown cadence.
    """

    interval: int = 8
    cadence: Literal["seeded", "reference"] = "seeded"
    ahead: int | None = None

    schedule_known = True

    def __post_init__(self) -> None:
        at_least(1, interval=self.interval)
        at_least(0, ahead=self.ahead)

    @property
    def spans_blocks(self) -> bool:  # type: ignore[override]
        """By the seeded cadence a new block is nothing special."""
        return self.cadence == "seeded"

    def refreshes(self, row: Row) -> bool:
        if self.cadence == "seeded":
            return row.steps % self.interval == 0
        return row.block_steps <= 1 or row.block_steps % self.interval == 0

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        masked = context.query.canvas.masked
        return masked if self.ahead is None else masked & window(context, None, self.ahead)


@dataclass(frozen=True)
class DKVPrefill(Policy):
    """dKV-Cache-Prefill: the prompt is computed once; everything else at every step."""

    schedule_known = uniform_feed = spans_blocks = True

    def refreshes(self, row: Row) -> bool:
        return row.steps == 0

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live & generated(context)


@dataclass(frozen=True)
class DKVPD(Policy):
    """dKV-Cache-PD: the prompt is computed once, keys of decided positions are kept one step late.

    Attributes:
        interval: steps between refreshes of the generated region (the paper: 4).

    Raises:
        SettingsError: ``interval`` below 1.
    """

    interval: int = 4

    schedule_known = spans_blocks = True

    def __post_init__(self) -> None:
        at_least(1, interval=self.interval)

    def refreshes(self, row: Row) -> bool:
        return row.steps == 0

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        again = (context.query.blocks.step % self.interval == 0)[:, None]
        return context.live & generated(context) & (context.query.canvas.masked | again)


def generated(context: PolicyContext) -> Bool[Tensor, "B W"]:
    """The generated region, and the row that answers for its first position."""
    return context.columns >= context.query.canvas.start[:, None] - context.shift
