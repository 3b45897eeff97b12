"""A cache policy at work on one batch: stamps, buffer, and the policy's memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.kv_store import Access, KVStore, Refreshing, Writing
from dlm.engine.answers import Answers
from dlm.engine.canvas import pack_positions
from dlm.engine.interfaces import CacheRun
from dlm.engine.no_cache import WholeRows
from dlm.engine.plan import CacheQuery, Feed, ForwardPlan, Layout, sees
from dlm.engine.step import State, StepView, map_state, renew_state

if TYPE_CHECKING:
    from cache.policy import Policy

# Numbers of fed positions that compiled code may see; beyond the last one, multiples of it.
BUCKETS = (1, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class LastPlan(NamedTuple):
    """The last question, and the answer.

    Attributes:
        query: the question.
        active, seen: positions fed, and those that may be attended to. ``[B, W]``
        whole: rows that the policy recomputes whole.
        counts: positions fed to each row.
    """

    query: CacheQuery
    active: Bool[Tensor, "B W"]
    seen: Bool[Tensor, "B W"]
    whole: tuple[bool, ...]
    counts: list[int]


class Run(CacheRun):
    """A policy at work: stamps, buffer and the policy's memory.

    Rows that refresh and rows that do not are fed in two calls, so that each row is recomputed when its own clock says
    so and never because of its neighbours.
    """

    def __init__(self, policy: Policy, layout: Layout) -> None:
        self.policy, self.layout = policy, layout
        self.store = KVStore(layout.streams * layout.rows, layout.columns)
        self.stamps = torch.full((layout.rows, layout.columns), -1, dtype=torch.long, device=layout.device)
        self.whole = WholeRows(layout.attention_block)
        self.answers = Answers()
        self.state: State = None
        self.started = False

    def plan(self, query: CacheQuery) -> ForwardPlan:
        """See :class:`dlm.engine.interfaces.CacheRun`. Waits for the device once, for the number of fed positions; what
        waits there is little, since the step before has just been waited for."""
        canvas, reaches = query.canvas, [row.visible_end for row in query.rows]
        if not self.started:
            # Not when the run is opened: memories have the canvas's shape, and the layout knows no canvas.
            self.state = self.answers.memory(self.policy.init, (canvas,), len(query.rows))
            self.started = True
        context = self._context(query)
        full = [self.answers.plain(self.policy.refreshes, (row,), bool) for row in query.rows]
        eligible, wanted = self._narrowed(context, full)
        needed = self.needed(wanted, query.ahead)
        seen, self.narrow = self.in_sight(context, needed)
        active = seen
        if not all(full):
            asked = self.answers.one(self.policy.active, (context, self.state), "bool", seen.shape)
            active = (asked | context.changed | needed) & seen
            if any(full):
                # Rows that refresh are fed whole in the same mask, so that counts and stamps need no second way.
                active = torch.where(torch.tensor(full, device=active.device)[:, None], seen, active)
        if query.exiting is not None:
            # A row can only leave when every open position is shown; elsewhere what an exit looks at is not computed.
            shown = ~(self.answering(canvas.masked) & ~active).any(dim=1, keepdim=True)
            wanted = wanted | (query.exiting & shown)
            active = active | (self.answering(query.exiting) & shown & seen)
        # The one wait: how wide the feed is. Where every row is fed whole the host knows it already.
        counts = reaches if all(full) and not self.narrow else active.sum(dim=1).tolist()
        self.last = LastPlan(query, active, seen, tuple(full), counts)
        # Stamps are set when the step is over: one that runs out of memory must leave no trace. The clone, because the
        # keys are those of the tokens now, and the step's commits change the canvas.
        self.fed_now = canvas.tokens.clone(), active
        # A policy that feeds all there is has refreshed the row, whatever it calls it.
        full = [whole or count == reach for whole, count, reach in zip(full, counts, reaches, strict=True)]
        feeds = self._feeds(query, active, seen if self.narrow else None, full, counts)
        refreshed = frozenset(slot for slot, whole in enumerate(full) if whole)
        return ForwardPlan(feeds, counts, refreshed, active, eligible, wanted)

    def in_sight(self, context: PolicyContext, needed: Bool[Tensor, "B W"]) -> tuple[Bool[Tensor, "B W"], bool]:
        """What may be attended to, and whether that is not simply every live position."""
        visible = self.answers.one(self.policy.visible, (context,), "bool", context.live.shape)
        return (context.live, False) if visible is None else (context.live & (visible | needed), True)

    def needed(self, wanted: Bool[Tensor, "B W"], ahead: Bool[Tensor, "B W"] | None) -> Bool[Tensor, "B W"]:
        """Rows that must be fed for proposals; for those ``ahead`` only where that changes nothing else."""
        return self.answering(wanted if ahead is None or not self.policy.exact else wanted | ahead)

    def answering(self, wanted: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        """The rows that score the positions ``wanted``."""
        return torch.nn.functional.pad(wanted[:, self.layout.shift :], (0, self.layout.shift))

    def _context(self, query: CacheQuery) -> PolicyContext:
        canvas = query.canvas
        live = canvas.columns < canvas.end[:, None]
        if any(row.visible_end < row.job.end for row in query.rows):
            reaches = torch.tensor([row.visible_end for row in query.rows], device=live.device)
            live = canvas.columns < reaches[:, None]
        changed = (self.stamps != canvas.tokens) & live
        return PolicyContext(query, changed, live, self.layout.shift, self.layout.attention_block)

    def _narrowed(self, context: PolicyContext, full: list[bool]) -> tuple[Bool[Tensor, "B W"], Bool[Tensor, "B W"]]:
        """What may be committed, and proposed for, when the policy looks at some candidates only."""
        query = context.query
        shape = query.eligible.shape
        candidates = self.answers.one(self.policy.candidates, (context, self.state), "bool", shape)
        if candidates is None:
            return query.eligible, query.wanted
        free = torch.tensor(full, device=candidates.device)[:, None]
        eligible = query.eligible & (candidates | free)
        return eligible, eligible | (query.wanted & ~query.eligible)

    def _feeds(
        self,
        query: CacheQuery,
        active: Bool[Tensor, "B W"],
        seen: Bool[Tensor, "B W"] | None,
        full: list[bool],
        counts: list[int],
    ) -> tuple[Feed, ...]:
        """One call for the rows that are recomputed whole, one for the others."""
        feeds: list[Feed] = []
        if seen is not None:  # what is recomputed whole is not the whole row: all rows alike
            return (self._partial(query, active, seen, max(counts)),)
        if not all(full):
            others = active & ~torch.tensor(full, device=active.device)[:, None]
            most = max(count for count, whole in zip(counts, full, strict=True) if not whole)
            feeds.append(self._partial(query, others, None, most))
        if any(full):
            feeds.append(self.refresh(query, [slot for slot, whole in enumerate(full) if whole]))
        return tuple(feeds)

    def refresh(self, query: CacheQuery, slots: list[int]) -> Feed:
        """The call for rows that are recomputed whole."""
        tokens, reaches = query.canvas.tokens, [query.rows[slot].visible_end for slot in slots]
        if len(slots) == len(query.rows):
            return replace(self.whole.feed(tokens, reaches, query.canvas.columns), memory=self.refreshing(query, None))
        index = torch.tensor(slots, device=tokens.device)
        feed = WholeRows(self.layout.attention_block).feed(tokens[index], reaches, query.canvas.columns)
        return replace(feed, memory=self.refreshing(query, index), slots=index)

    def _partial(
        self, query: CacheQuery, active: Bool[Tensor, "B W"], seen: Bool[Tensor, "B W"] | None, most: int
    ) -> Feed:
        canvas, reaches = query.canvas, [row.visible_end for row in query.rows]
        positions = pack_positions(active, canvas.columns, self.rounded(most))
        reach = max(reaches)
        valid = None if seen is None else seen[:, :reach]
        if seen is None and min(reaches) < reach:
            # Shorter rows have stored columns behind their end, left over from rows before them.
            valid = self._context(query).live[:, :reach]
        if self.layout.attention_block:
            valid = sees(positions, canvas.columns[:reach], self.layout.attention_block, valid)
        return Feed(
            tokens=canvas.tokens.gather(1, positions),
            positions=positions,
            valid=valid,
            memory=self.writing(query, positions, reach),
            stored=reach,
        )

    def refreshing(self, query: CacheQuery, slots: Int[Tensor, " R"] | None) -> Access:
        """What a refresh does to the store."""
        return Refreshing(self.store, slots=slots)

    def writing(self, query: CacheQuery, positions: Int[Tensor, "B T"], reach: int) -> Access:
        """What another step does to the store."""
        return Writing(self.store, positions=positions, reach=reach)

    def rounded(self, count: int) -> int:
        """The number of entries that are fed for ``count`` positions."""
        if not self.layout.static:
            return max(1, count)  # attention over no query at all is an error
        largest = BUCKETS[-1]
        fitting = next((size for size in BUCKETS if size >= count), -(-count // largest) * largest)
        return min(fitting, self.layout.columns)

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        tokens, fed = self.fed_now
        self.stamps = torch.where(fed, tokens, self.stamps)
        asked = (view, chosen, self.state)
        self.state, report = self.answers.report(self.policy.remember, asked, view.canvas.start.shape[0])
        return dict(report)

    def keep(self, slots: list[int]) -> None:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        rows = self.stamps.shape[0]
        index = torch.tensor(slots, dtype=torch.long, device=self.stamps.device)
        self.stamps = self.stamps.index_select(0, index)
        self.state = map_state(lambda x: x.index_select(0, index), self.state)
        self.store.keep([stream * rows + slot for stream in range(self.layout.streams) for slot in slots])

    def renew(self, slots: list[int]) -> None:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        self.stamps[slots] = -1  # no token has this id: everything is changed, so nothing stored is ever seen
        fresh = torch.zeros(self.stamps.shape[0], dtype=torch.bool, device=self.stamps.device)
        fresh[slots] = True
        self.state = renew_state(self.state, map_state(torch.zeros_like, self.state), fresh)
