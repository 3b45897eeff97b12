"""What every key/value cache shares: the stamp rule, the split into refreshed and other rows, the buffer.

A policy answers three questions as sets (specs/caches.md 2.1): is a row recomputed whole now, which positions are fed
otherwise, and which may be attended to. Everything else is here.

**The stamp rule** (2.3): every stored key and value remembers the token it was computed for; a visible position whose
token is another one by now is fed, whatever the policy says. So no policy can serve a key of a token that is no longer
there, a token committed at a step is recomputed at the next one (the one-step delay of dKV-Cache, arXiv 2505.15781),
and samplers that take tokens back need nothing special.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.store import Access, Refreshing, Store, Writing
from dlm.batch import map_state, renew_state
from dlm.canvas import Canvas, pack_positions
from dlm.errors import SettingsError
from dlm.models.backbone import ModelDescription
from dlm.plan import Feed, ForwardPlan, Layout, Now, sees
from dlm.proposal import Statistic
from dlm.protocols import State
from dlm.row import Row
from dlm.sampler import Sampler
from dlm.uncached import WholeRows
from dlm.view import StepView

# Numbers of fed positions that compiled code may see; beyond the last one, multiples of it.
BUCKETS = (1, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class Before:
    """What a policy is shown before a forward.

    Attributes:
        now: the decoder's question.
        changed: positions whose token is not the one their stored key was computed for. ``[B, W]``
        live: positions the model may see of each row. ``[B, W]``
        shift: a proposal for position p comes from row p - shift.
        attention_block: as in :class:`dlm.models.backbone.ModelDescription`.
    """

    now: Now
    changed: Bool[Tensor, "B W"]
    live: Bool[Tensor, "B W"]
    shift: int
    attention_block: int

    @property
    def block_start(self) -> Int[Tensor, "B 1"]:
        """First position of each row's block."""
        return self.now.clock.block_start[:, None]

    @property
    def block_end(self) -> Int[Tensor, "B 1"]:
        """End of each row's block."""
        return self.now.clock.block_end[:, None]

    @property
    def columns(self) -> Int[Tensor, " W"]:
        """The column numbers of the canvas."""
        return self.now.canvas.columns

    def span(self, start: Int[Tensor, "B 1"], end: Int[Tensor, "B 1"]) -> Bool[Tensor, "B W"]:
        """Positions whose proposals are those of ``[start, end)``, and these positions themselves: a shifted model
        needs the row before."""
        return (self.columns >= start - self.shift) & (self.columns < end)


class Policy:
    """Base of the key/value caches; a policy is a frozen dataclass of settings.

    Class attributes:
        steady: whether the candidates of a block are recomputed at every one of its steps.
        asks_ahead: whether it must know what a step commits before the forward.
        pure: whether what a step computes depends on nothing but the row as it is and as it was when its block began
            (drafting needs that).
        versions: whether several versions of a row can look at what it keeps (look-ahead branches).
        own_run: whether it keeps more than :class:`Run` does, so that no other policy can be laid around it.
    """

    stores = True
    steady = True
    asks_ahead = False
    pure = False
    versions = True
    own_run = False

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics beyond the probability that the policy reads: none."""
        return frozenset()

    def check(self, sampler: Sampler, description: ModelDescription) -> None:
        """Refuse samplers that do not go with the policy (specs/caches.md 4), with the reason."""
        reason = self.refusal(sampler, description)
        if reason is not None:
            name = type(self).__name__
            raise SettingsError(f"cache {name} does not go with sampler {sampler.name!r}: {reason}")

    def refusal(self, sampler: Sampler, description: ModelDescription) -> str | None:
        """Why the sampler does not go with the policy; None: it does."""
        if sampler.lookahead is not None and (description.attention_block or not (self.versions and self.steady)):
            return "look-ahead branches of a row cannot share what it keeps; use cache=dual, prefix or dkv_decode"
        if "attention" in sampler.needs:
            return "it reads the attention of the whole row, which a cache does not compute; use cache=none"
        if sampler.compares_steps and not self.steady:
            return (
                "it compares a position with the step before, and one that was not recomputed since would pass for"
                " stable; use cache=dual, prefix, vicinity or dkv_decode"
            )
        if self.asks_ahead and not sampler.foreseen:
            return (
                "this cache must know before a forward which positions it will commit, and that sampler decides after"
                " it; use sampler=random (without modifiers), or cache=dual or recap"
            )
        return None

    def open(self, layout: Layout) -> Run:
        """The policy at work on one batch.

        Raises:
            SettingsError: a window of the policy is wider than the canvas.
        """
        return Run(self, layout)

    @property
    def widths(self) -> dict[str, int | None]:
        """Settings that are widths in positions and must fit the canvas; None stands for all there are."""
        return {}

    def init(self, canvas: Canvas) -> State:
        """Memory of fresh rows: None, a tensor of zeros, or a tuple of such, the row axis first."""
        return None

    def refreshes(self, row: Row) -> bool:
        """Whether the row is recomputed whole at its next step, decided on the host."""
        raise NotImplementedError

    def active(self, before: Before, state: State) -> Bool[Tensor, "B W"]:
        """Positions to feed at a step that is no refresh. Changed positions and rows that answer for wanted ones are
        added by the base."""
        raise NotImplementedError

    def visible(self, before: Before) -> Bool[Tensor, "B W"] | None:
        """Positions that may be attended to and are recomputed by a refresh; None: all live ones."""
        return None

    def candidates(self, before: Before, state: State) -> Bool[Tensor, "B W"] | None:
        """The only positions the step may commit; None: the sampler's choice is not narrowed. Rows that are refreshed
        are not asked."""
        return None

    def remember(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: State
    ) -> tuple[State, dict[str, Int[Tensor, " B"]]]:
        """The memory after a step, and what the host must know of it (``row.cache``)."""
        return state, {}


class Run:
    """A policy at work: stamps, buffer and the policy's memory.

    Rows that refresh and rows that do not are fed in two calls, so that each row is recomputed when its own clock says
    so and never because of its neighbours.
    """

    def __init__(self, policy: Policy, layout: Layout) -> None:
        for name, width in policy.widths.items():
            if width is not None and width >= layout.columns:
                raise SettingsError(
                    f"cache {type(policy).__name__}: {name}={width} is wider than the canvas of"
                    f" {layout.columns - 1} positions (prompt and new tokens); lower it"
                )
        self.policy, self.layout = policy, layout
        self.store = Store(layout.streams * layout.rows, layout.columns)
        self.stamps = torch.full((layout.rows, layout.columns), -1, dtype=torch.long, device=layout.device)
        self.whole = WholeRows(layout.attention_block)
        self.state: State = None
        self.started = False

    def plan(self, now: Now) -> ForwardPlan:
        """See :class:`dlm.protocols.CacheRun`. Waits for the device once, for the number of fed positions; what waits
        there is little, since the step before has just been waited for."""
        canvas, reaches = now.canvas, [row.reach for row in now.rows]
        if not self.started:
            self.state, self.started = self.policy.init(canvas), True
        before = self._before(now)
        full = [self.policy.refreshes(row) for row in now.rows]
        eligible, wanted = self._narrowed(before, full)
        needed = self._answering(wanted)
        visible = self.policy.visible(before)
        seen = before.live if visible is None else before.live & (visible | needed)
        active = seen
        if not all(full):
            active = (self.policy.active(before, self.state) | before.changed | needed) & seen
            if any(full):
                active = torch.where(torch.tensor(full, device=active.device)[:, None], seen, active)
        if now.leaving is not None:
            # A row can only leave when every open position is shown; elsewhere what an exit looks at is not computed.
            shown = ~(self._answering(canvas.masked) & ~active).any(dim=1, keepdim=True)
            wanted = wanted | (now.leaving & shown)
            active = active | (self._answering(now.leaving) & shown & seen)
        counts = reaches if all(full) and visible is None else active.sum(dim=1).tolist()
        full = [whole or count == reach for whole, count, reach in zip(full, counts, reaches, strict=True)]
        self._pending = canvas.tokens.clone(), active
        feeds = self._feeds(now, active, None if visible is None else seen, full, counts)
        refreshed = frozenset(slot for slot, whole in enumerate(full) if whole)
        return ForwardPlan(feeds, counts, refreshed, active, eligible, wanted)

    def _answering(self, wanted: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        """The rows that score the positions ``wanted``."""
        return torch.nn.functional.pad(wanted[:, self.layout.shift :], (0, self.layout.shift))

    def _before(self, now: Now) -> Before:
        canvas = now.canvas
        live = canvas.columns < canvas.end[:, None]
        if any(row.reach < row.job.end for row in now.rows):
            reaches = torch.tensor([row.reach for row in now.rows], device=live.device)
            live = canvas.columns < reaches[:, None]
        changed = (self.stamps != canvas.tokens) & live
        return Before(now, changed, live, self.layout.shift, self.layout.attention_block)

    def _narrowed(self, before: Before, full: list[bool]) -> tuple[Bool[Tensor, "B W"], Bool[Tensor, "B W"]]:
        """What may be committed, and proposed for, when the policy looks at some candidates only."""
        now = before.now
        candidates = self.policy.candidates(before, self.state)
        if candidates is None:
            return now.eligible, now.wanted
        free = torch.tensor(full, device=candidates.device)[:, None]
        eligible = now.eligible & (candidates | free)
        return eligible, eligible | (now.wanted & ~now.eligible)

    def _feeds(
        self,
        now: Now,
        active: Bool[Tensor, "B W"],
        seen: Bool[Tensor, "B W"] | None,
        full: list[bool],
        counts: list[int],
    ) -> tuple[Feed, ...]:
        """One call for the rows that are recomputed whole, one for the others."""
        feeds: list[Feed] = []
        if seen is not None:  # what is recomputed whole is not the whole row: all rows alike
            return (self._partial(now, active, seen, max(counts)),)
        if not all(full):
            others = active & ~torch.tensor(full, device=active.device)[:, None]
            most = max(count for count, whole in zip(counts, full, strict=True) if not whole)
            feeds.append(self._partial(now, others, None, most))
        if any(full):
            feeds.append(self._refresh(now, [slot for slot, whole in enumerate(full) if whole]))
        return tuple(feeds)

    def _refresh(self, now: Now, slots: list[int]) -> Feed:
        tokens, reaches = now.canvas.tokens, [now.rows[slot].reach for slot in slots]
        if len(slots) == len(now.rows):
            return replace(self.whole.feed(tokens, reaches, now.canvas.columns), memory=self.refreshing(now, None))
        index = torch.tensor(slots, device=tokens.device)
        feed = WholeRows(self.layout.attention_block).feed(tokens[index], reaches, now.canvas.columns)
        return replace(feed, memory=self.refreshing(now, index), slots=index)

    def _partial(self, now: Now, active: Bool[Tensor, "B W"], seen: Bool[Tensor, "B W"] | None, most: int) -> Feed:
        canvas, reaches = now.canvas, [row.reach for row in now.rows]
        positions = pack_positions(active, canvas.columns, self.rounded(most))
        reach = max(reaches)
        valid = None if seen is None else seen[:, :reach]
        if seen is None and min(reaches) < reach:
            valid = self._before(now).live[:, :reach]
        if self.layout.attention_block:
            valid = sees(positions, canvas.columns[:reach], self.layout.attention_block, valid)
        return Feed(
            tokens=canvas.tokens.gather(1, positions),
            positions=positions,
            valid=valid,
            memory=self.writing(now, positions, reach),
            stored=reach,
        )

    def refreshing(self, now: Now, slots: Int[Tensor, " R"] | None) -> Access:
        """What a refresh does to the store."""
        return Refreshing(self.store, slots=slots)

    def writing(self, now: Now, positions: Int[Tensor, "B T"], reach: int) -> Access:
        """What another step does to the store."""
        return Writing(self.store, positions=positions, reach=reach)

    def rounded(self, count: int) -> int:
        """The number of entries that are fed for ``count`` positions."""
        if not self.layout.static:
            return max(1, count)
        largest = BUCKETS[-1]
        fitting = next((size for size in BUCKETS if size >= count), -(-count // largest) * largest)
        return min(fitting, self.layout.columns)

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        """See :class:`dlm.protocols.CacheRun`."""
        tokens, fed = self._pending
        self.stamps = torch.where(fed, tokens, self.stamps)
        self.state, report = self.policy.remember(view, chosen, self.state)
        return report

    def accept(self, tokens: Int[Tensor, "B W"]) -> None:
        """See :class:`dlm.protocols.CacheRun`."""
        self._pending = tokens, self._pending[1]

    def keep(self, slots: list[int]) -> None:
        """See :class:`dlm.protocols.CacheRun`."""
        rows = self.stamps.shape[0]
        index = torch.tensor(slots, dtype=torch.long, device=self.stamps.device)
        self.stamps = self.stamps.index_select(0, index)
        self.state = map_state(lambda x: x.index_select(0, index), self.state)
        self.store.keep([stream * rows + slot for stream in range(self.layout.streams) for slot in slots])

    def renew(self, slots: list[int]) -> None:
        """See :class:`dlm.protocols.CacheRun`."""
        self.stamps[slots] = -1
        fresh = torch.zeros(self.stamps.shape[0], dtype=torch.bool, device=self.stamps.device)
        fresh[slots] = True
        self.state = renew_state(self.state, map_state(torch.zeros_like, self.state), fresh)


def recent(view_or_now: Any, steps: int) -> Bool[Tensor, "B W"]:
    """Positions committed within the last ``steps`` steps before this one."""
    canvas, clock = view_or_now.canvas, view_or_now.clock
    return (canvas.commit_step >= 0) & (canvas.commit_step >= (clock.step - steps)[:, None])
