"""No cache: every position of a row at every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.branches import Branches, BranchPlan
from dlm.engine.plan import CacheQuery, Feed, ForwardPlan, Layout, sees
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.step import StepView


@dataclass(frozen=True)
class NoCache:
    """Recompute every live position at every step (what ``cache=None`` means)."""

    needs: frozenset[Statistic] = frozenset()
    stores: bool = False
    asks_ahead: bool = False
    schedule_known: bool = True
    spans_blocks: bool = True

    def check(self, sampler: Any, description: Any) -> None:
        """Goes with everything."""

    def open(self, layout: Layout) -> NoCacheRun:
        """Nothing is remembered but the masks of the present row lengths."""
        return NoCacheRun(WholeRows(layout.attention_block))


@dataclass
class WholeRows:
    """Feeds of whole rows, and the masks they need."""

    attention_block: int
    _valid: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict, repr=False)

    def feed(self, tokens: Int[Tensor, "R W"], reaches: list[int], columns: Int[Tensor, " W"]) -> Feed:
        """``[0, reach)`` of every row; the tail of shorter rows is hidden from everybody's attention."""
        width = max(reaches)
        key = tuple(reaches)
        if key not in self._valid:
            valid = inside(reaches, columns[:width])
            if self.attention_block:
                valid = sees(columns[:width].expand(len(reaches), width), columns[:width], self.attention_block, valid)
            self._valid = {key: valid}
        return Feed(tokens[:, :width], None, self._valid[key])


def inside(reaches: list[int], columns: Int[Tensor, " S"]) -> Bool[Tensor, "R S"] | None:
    """Which columns lie in each row; None when all do."""
    if min(reaches) >= columns.shape[0]:
        return None
    return columns < torch.tensor(reaches, device=columns.device)[:, None]


@dataclass
class NoCacheRun:
    """:class:`NoCache` at work."""

    whole: WholeRows
    reaches: list[int] = field(default_factory=list)

    def plan(self, now: CacheQuery) -> ForwardPlan:
        self.reaches = reaches = [row.reach for row in now.rows]
        return ForwardPlan((self.whole.feed(now.canvas.tokens, reaches, now.canvas.columns),), reaches)

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Tensor]:
        return {}

    def evaluable(self, row: Row) -> int:
        return len(row.ahead)

    def spread(self, versions: Branches) -> BranchPlan:
        pairs = list(zip(versions.counts, self.reaches, strict=True))
        reaches = [reach for count, reach in pairs for _ in range(count)]
        feed = WholeRows(self.whole.attention_block).feed(versions.canvas.tokens, reaches, versions.canvas.columns)
        return BranchPlan((feed,), [count * reach for count, reach in pairs], None, range(len(pairs)))

    def accept(self, kept: Int[Tensor, " B"]) -> None:
        return None

    def keep(self, slots: list[int]) -> None:
        return None

    def renew(self, slots: list[int]) -> None:
        return None
