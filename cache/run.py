"""A cache policy at work on one batch: stamps, buffer, and the policy's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext, answering
from cache.kv_store import Access, KVStore, Refreshing, Writing
from dlm.engine.answers import Answers
from dlm.engine.canvas import packed
from dlm.engine.interfaces import CacheRun
from dlm.engine.no_cache import WholeRows
from dlm.engine.plan import CacheQuery, Feed, FixedFeeds, ForwardPlan, Layout
from dlm.engine.row import Row
from dlm.engine.step import BlockState, State, StepView, map_state, renew_state
from dlm.models.backbone import sees

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


class NextFeed(NamedTuple):
    """What the next step of the same block will be fed, where that is known when a step ends: the host learns the
    number with that step's report and need not wait for it.

    Attributes:
        block: the open positions it is about; another block's are not known. ``[B, W]``
        question: what else it depends on, see :func:`_question`.
        asked: what the policy asks for. ``[B, W]``
        active, order: what is fed, and its running number. ``[B, W]``
        eligible, wanted: as in :class:`dlm.engine.plan.ForwardPlan`; None: what the query says. ``[B, W]``
    """

    block: Bool[Tensor, "B W"]
    question: tuple[Tensor | None, ...]
    asked: Bool[Tensor, "B W"]
    active: Bool[Tensor, "B W"]
    order: Int[Tensor, "B W"]
    eligible: Bool[Tensor, "B W"] | None
    wanted: Bool[Tensor, "B W"] | None


class Run(CacheRun, FixedFeeds):
    """A policy at work: stamps, buffer and the policy's memory.

    Rows that refresh and rows that do not are fed in two calls, so that each row is recomputed when its own clock says
    so and never because of its neighbours.
    """

    def __init__(self, policy: Policy, layout: Layout) -> None:
        self.policy, self.layout = policy, layout
        rows = layout.streams * layout.rows
        self.store = KVStore(rows, layout.columns, layout.layers if rows == 1 else 0)
        self.stamps = torch.full((layout.rows, layout.columns), -1, dtype=torch.long, device=layout.device)
        self.whole = WholeRows(layout.attention_block)
        self.answers = Answers()
        self.state: State = None
        self.started = False
        self.next: NextFeed | None = None
        self.feeds_all = False  # every position at every step, of which an access may compute less

    def plan(self, query: CacheQuery) -> ForwardPlan:
        """See :class:`dlm.engine.interfaces.CacheRun`. Waits for the device, for the number of fed positions, where
        the step before could not tell it."""
        canvas, reaches = query.canvas, [row.visible_end for row in query.rows]
        if not self.started:
            # Not when the run is opened: memories have the canvas's shape, and the layout knows no canvas.
            self.state = self.answers.memory(self.policy.init, (canvas,), len(query.rows))
            self.started = True
        full = [self.answers.plain(self.policy.refreshes, (row,), bool) for row in query.rows]
        if not any(full) and self._foreseen(query):
            return self._planned_before(query, reaches)
        context = self._context(query)
        eligible, wanted = self._narrowed(context, full)
        needed = self.needed(wanted, query.ahead)
        seen, self.narrow = self.in_sight(context, needed)
        active = seen
        if not (all(full) or self.feeds_all):
            asked = self.answers.one(self.policy.active, (context, self.state), "bool", seen.shape)
            active = (asked | context.changed | needed) & seen
            if any(full):
                # Rows that refresh are fed whole in the same mask, so that counts and stamps need no second way.
                active = torch.where(torch.tensor(full, device=active.device)[:, None], seen, active)
        wanted, active = self._leaving(query, wanted, active, seen)
        watched = self.answers.one(self.policy.watched, (context, self.state), "bool", seen.shape)
        if watched is not None:
            wanted = wanted | (watched & context.shown(active))
        # The wait: how wide the feed is. Where every row is fed whole the host knows it already.
        whole = (all(full) or self.feeds_all) and not self.narrow
        order = None if whole else active.cumsum(dim=1)
        counts, most = reaches, 0
        if watched is not None:
            fed, most = _told(order, wanted)
            counts = fed or reaches
        elif order is not None:
            counts = order[:, -1].tolist()
        self._note(query, active, seen, tuple(full), counts)
        # A policy that feeds all there is has refreshed the row, whatever it calls it.
        full = [whole or count == reach for whole, count, reach in zip(full, counts, reaches, strict=True)]
        feeds = self._feeds(query, order, seen if self.narrow else None, full, counts)
        refreshed = frozenset(slot for slot, whole in enumerate(full) if whole)
        return ForwardPlan(feeds, counts, refreshed, active, eligible, wanted, most)

    def _note(
        self, query: CacheQuery, active: Tensor, seen: Tensor, whole: tuple[bool, ...], counts: list[int]
    ) -> None:
        """Remember what is planned. Stamps are set when the step is over: one that runs out of memory must leave no
        trace; and made now, because the keys are those of the tokens before the step's commits."""
        self.last = LastPlan(query, active, seen, whole, counts)
        self.stamped = torch.where(active, query.canvas.tokens, self.stamps)

    def _foreseen(self, query: CacheQuery) -> bool:
        """Whether the last step's end has told what this one is fed."""
        told = self.next
        if told is None or told.block is not query.blocks.block or any(row.fed_next is None for row in query.rows):
            return False
        return all(a is b for a, b in zip(told.question, _question(query), strict=True))

    def _planned_before(self, query: CacheQuery, reaches: list[int]) -> ForwardPlan:
        """The plan that the end of the last step has laid out."""
        told, self.narrow = self.next, False
        assert told is not None
        counts = self.counts(query.rows)
        self._note(query, told.active, _live(query), (False,) * len(counts), counts)
        full = [count == reach for count, reach in zip(counts, reaches, strict=True)]
        feed = self._partial(query, told.order, None, max(counts))
        eligible = query.eligible if told.eligible is None else told.eligible
        wanted = query.wanted if told.wanted is None else told.wanted
        refreshed = frozenset(slot for slot, whole in enumerate(full) if whole)
        return ForwardPlan((feed,), counts, refreshed, told.active, eligible, wanted)

    def foresee(self, query: CacheQuery) -> Int[Tensor, " B"] | None:
        """See :class:`dlm.engine.interfaces.CacheRun`. For policies that ask for nothing a step has yet to tell the
        host; of those that ask for the same at every step of a block, what they asked for is kept."""
        before, self.next, policy = self.next, None, self.policy
        if policy.exact or self.narrow or not (policy.uniform_feed or policy.schedule_known or policy.asks_ahead):
            return None
        block, live, eligible, wanted = query.blocks.block, _live(query), query.eligible, query.wanted
        if policy.uniform_feed and before is not None and before.block is block:
            asked, changed = before.asked, self.stamps != query.canvas.tokens
        else:
            # What is kept is for all of the row, however much of it is seen now.
            context = self._context(replace(query, visible=None) if policy.uniform_feed else query)
            if policy.visible(context) is not None:
                return None
            eligible, wanted = self._narrowed(context, [])
            asked = self.answers.one(policy.active, (context, self.state), "bool", block.shape)
            changed = context.changed
            if policy.uniform_feed:
                asked = asked | self.needed(block, None)
        fed = asked | changed
        if not (policy.uniform_feed and wanted is eligible):
            fed = fed | self.needed(wanted, None)
        wanted, active = self._leaving(query, wanted, fed & live, live)
        order = active.cumsum(dim=1)
        other = (None if new is old else new for new, old in ((eligible, query.eligible), (wanted, query.wanted)))
        self.next = NextFeed(block, _question(query), asked, active, order, *other)
        return order[:, -1]

    def _leaving(
        self, query: CacheQuery, wanted: Bool[Tensor, "B W"], active: Bool[Tensor, "B W"], seen: Bool[Tensor, "B W"]
    ) -> tuple[Bool[Tensor, "B W"], Bool[Tensor, "B W"]]:
        """What is proposed for, and fed, with what an early exit looks at. A row can only leave when every open
        position is shown; elsewhere that is not computed."""
        if query.exiting is None:
            return wanted, active
        # Of truth values <= is "implies": all that is masked is fed.
        shown = (self.answering(query.canvas.masked) <= active).all(dim=1, keepdim=True)
        exiting = query.exiting & shown
        return wanted | exiting, active | (self.answering(exiting) & seen)

    def in_sight(self, context: PolicyContext, needed: Bool[Tensor, "B W"]) -> tuple[Bool[Tensor, "B W"], bool]:
        """What may be attended to, and whether that is not simply every live position."""
        visible = self.answers.one(self.policy.visible, (context,), "bool", context.live.shape)
        return (context.live, False) if visible is None else (context.live & (visible | needed), True)

    def needed(self, wanted: Bool[Tensor, "B W"], ahead: Bool[Tensor, "B W"] | None) -> Bool[Tensor, "B W"]:
        """Rows that must be fed for proposals; for those ``ahead`` only where that changes nothing else."""
        return self.answering(wanted if ahead is None or not self.policy.exact else wanted | ahead)

    def answering(self, wanted: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        """The rows that score the positions ``wanted``."""
        return answering(wanted, self.layout.shift)

    def _context(self, query: CacheQuery) -> PolicyContext:
        live = _live(query)
        changed = (self.stamps != query.canvas.tokens) & live
        return PolicyContext(query, changed, live, self.layout.shift, self.layout.attention_block)

    def _narrowed(self, context: PolicyContext, full: list[bool]) -> tuple[Bool[Tensor, "B W"], Bool[Tensor, "B W"]]:
        """What may be committed, and proposed for, when the policy looks at some candidates only."""
        query = context.query
        shape = query.eligible.shape
        candidates = self.answers.one(self.policy.candidates, (context, self.state), "bool", shape)
        if candidates is None or (full and all(full)):
            return query.eligible, query.wanted
        if any(full):
            candidates = candidates | torch.tensor(full, device=candidates.device)[:, None]
        eligible = query.eligible & candidates
        if query.wanted is query.eligible:
            return eligible, eligible
        return eligible, eligible | (query.wanted & ~query.eligible)

    def _feeds(
        self,
        query: CacheQuery,
        order: Int[Tensor, "B W"] | None,
        seen: Bool[Tensor, "B W"] | None,
        full: list[bool],
        counts: list[int],
    ) -> tuple[Feed, ...]:
        """One call for the rows that are recomputed whole, one for the others."""
        feeds: list[Feed] = []
        if seen is not None:  # what is recomputed whole is not the whole row: all rows alike
            assert order is not None
            return (self._partial(query, order, seen, max(counts)),)
        if not all(full):
            assert order is not None
            if any(full):
                order = order * ~torch.tensor(full, device=order.device)[:, None]
            most = max(count for count, whole in zip(counts, full, strict=True) if not whole)
            feeds.append(self._partial(query, order, None, most))
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
        self, query: CacheQuery, order: Int[Tensor, "B W"], seen: Bool[Tensor, "B W"] | None, most: int
    ) -> Feed:
        """A call for positions by their running number (:func:`dlm.engine.canvas.packed`)."""
        canvas, reaches = query.canvas, [row.visible_end for row in query.rows]
        positions = packed(order, canvas.columns, self.rounded(most))
        reach = self.layout.columns - 1 if self.layout.fixed else max(reaches)
        valid = None if seen is None else seen[:, :reach]
        if seen is None and (self.layout.fixed or min(reaches) < reach):
            # Shorter rows have stored columns behind their end, left over from rows before them.
            valid = _live(query)[:, :reach]
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

    def told(self, blocks: BlockState, rows: Sequence[Row]) -> int | None:
        """See :class:`dlm.engine.plan.FixedFeeds`."""
        if self.next is None or self.next.block is not blocks.block or any(map(self.policy.refreshes, rows)):
            return None
        counts = self.counts(rows)
        # What is fed whole is booked as a refresh, by the host.
        whole = any(count == row.visible_end for count, row in zip(counts, rows, strict=True))
        return None if whole else self.rounded(max(counts))

    def counts(self, rows: Sequence[Row]) -> list[int]:
        """See :class:`dlm.engine.plan.FixedFeeds`."""
        return [row.fed_next or 0 for row in rows]

    def tensors(self) -> State:
        """See :class:`dlm.engine.plan.FixedFeeds`."""
        return (self.stamps, self.state, self.next)

    def put(self, tensors: State) -> None:
        """See :class:`dlm.engine.plan.FixedFeeds`."""
        self.stamps, self.state, self.next = tensors

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        self.stamps, asked = self.stamped, (view, chosen, self.state)
        self.state, report = self.answers.report(self.policy.remember, asked, view.canvas.start.shape[0])
        return report

    def keep(self, slots: list[int]) -> None:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        rows, self.next = self.stamps.shape[0], None
        index = torch.tensor(slots, dtype=torch.long, device=self.stamps.device)
        self.stamps = self.stamps.index_select(0, index)
        self.state = map_state(lambda x: x.index_select(0, index), self.state)
        self.store.keep([stream * rows + slot for stream in range(self.layout.streams) for slot in slots])

    def renew(self, slots: list[int]) -> None:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        self.next = None
        self.stamps[slots] = -1  # no token has this id: everything is changed, so nothing stored is ever seen
        fresh = torch.zeros(self.stamps.shape[0], dtype=torch.bool, device=self.stamps.device)
        fresh[slots] = True
        self.state = renew_state(self.state, map_state(torch.zeros_like, self.state), fresh)


def _told(order: Int[Tensor, "B W"] | None, wanted: Bool[Tensor, "B W"]) -> tuple[list[int], int]:
    """In one wait, how many positions are fed to each row, as far as that is asked, and the most that are wanted."""
    told = [wanted.sum(dim=1)] if order is None else [wanted.sum(dim=1), order[:, -1]]
    most, *fed = torch.stack(told).tolist()
    return (fed[0] if fed else []), max(most)


def _live(query: CacheQuery) -> Bool[Tensor, "B W"]:
    """Positions the model may see."""
    return query.canvas.live if query.visible is None else query.canvas.live & query.visible


def _question(query: CacheQuery) -> tuple[Tensor | None, ...]:
    """What the plan depends on beside the block and the tokens; a usual sampler asks for nothing else."""
    wanted = None if query.wanted is query.eligible else query.wanted
    return wanted, query.exiting, query.upcoming, query.visible
