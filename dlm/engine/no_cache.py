"""Caches that keep nothing of their own: none, which feeds every position at every step; and one around another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.interfaces import Cache, CacheRun
from dlm.engine.plan import Branches, BranchPlan, CacheQuery, Feed, FixedFeeds, ForwardPlan, Layout
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.step import BlockState, State, StepView
from dlm.models.backbone import sees


@dataclass(frozen=True)
class NoCache(Cache):
    """Recompute every live position at every step (what ``cache=None`` means)."""

    @property
    def schedule_known(self) -> bool:
        return True

    @property
    def spans_blocks(self) -> bool:
        return True

    @property
    def feeds_alike(self) -> bool:
        return True

    def open(self, layout: Layout) -> NoCacheRun:
        """Nothing is remembered but the masks of the present row lengths."""
        return NoCacheRun(WholeRows(layout.attention_block), fixed=layout.fixed)


@dataclass(frozen=True)
class CacheAround(Cache):
    """Says of itself what another cache says; who listens to that one extends it."""

    inner: Cache

    @property
    def needs(self) -> frozenset[Statistic]:
        return self.inner.needs

    @property
    def stores(self) -> bool:
        return self.inner.stores

    @property
    def asks_ahead(self) -> bool:
        return self.inner.asks_ahead

    @property
    def schedule_known(self) -> bool:
        return self.inner.schedule_known

    @property
    def spans_blocks(self) -> bool:
        return self.inner.spans_blocks

    def check(self, sampler: Any, description: Any) -> None:
        """What the other one refuses."""
        self.inner.check(sampler, description)

    def open(self, layout: Layout) -> CacheRun:
        """The other one at work."""
        return self.inner.open(layout)


@dataclass
class WholeRows:
    """Feeds of whole rows, and the masks they need."""

    attention_block: int
    _valid: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict, repr=False)

    def feed(self, tokens: Int[Tensor, "R W"], ends: list[int], columns: Int[Tensor, " W"]) -> Feed:
        """``[0, end)`` of every row; the tail of shorter rows is hidden from everybody's attention."""
        width = max(ends)
        key = tuple(ends)
        if key not in self._valid:
            valid = inside(ends, columns[:width])
            if self.attention_block:
                valid = sees(columns[:width].expand(len(ends), width), columns[:width], self.attention_block, valid)
            self._valid = {key: valid}
        return Feed(tokens[:, :width], None, self._valid[key])


def inside(ends: list[int], columns: Int[Tensor, " S"]) -> Bool[Tensor, "R S"] | None:
    """Which columns lie in each row; None when all do."""
    if min(ends) >= columns.shape[0]:
        return None
    return columns < torch.tensor(ends, device=columns.device)[:, None]


@dataclass
class NoCacheRun(CacheRun, FixedFeeds):
    """:class:`NoCache` at work."""

    whole: WholeRows
    ends: list[int] = field(default_factory=list)
    fixed: bool = False

    def plan(self, query: CacheQuery) -> ForwardPlan:
        self.ends = ends = [row.visible_end for row in query.rows]
        if self.fixed:
            width, block = query.canvas.scratch, self.whole.attention_block
            valid = query.canvas.live[:, :width]
            if block:
                columns = query.canvas.columns[:width]
                valid = sees(columns.expand(len(ends), width), columns, block, valid)
            return ForwardPlan((Feed(query.canvas.tokens[:, :width], None, valid),), ends)
        return ForwardPlan((self.whole.feed(query.canvas.tokens, ends, query.canvas.columns),), ends)

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Tensor]:
        return {}

    def told(self, blocks: BlockState, rows: Sequence[Row]) -> int | None:
        return 0  # the whole width, at every step

    def counts(self, rows: Sequence[Row]) -> list[int]:
        return [row.visible_end for row in rows]

    def tensors(self) -> State:
        return None

    def put(self, tensors: State) -> None:
        return None

    def evaluable(self, row: Row) -> int:
        return len(row.ahead)

    def spread(self, branches: Branches) -> BranchPlan:
        pairs = list(zip(branches.counts, self.ends, strict=True))
        ends = [end for count, end in pairs for _ in range(count)]
        feed = WholeRows(self.whole.attention_block).feed(branches.canvas.tokens, ends, branches.canvas.columns)
        return BranchPlan((feed,), [count * end for count, end in pairs], None, range(len(pairs)), True)

    def accept(self, kept: Int[Tensor, " B"]) -> None:
        return None

    def keep(self, slots: list[int]) -> None:
        return None

    def renew(self, slots: list[int]) -> None:
        return None
