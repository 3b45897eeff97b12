"""A cached step for several versions of every row: each is fed what it would be fed, and sees what it would see.

A version that follows another one (a draft) is a state one step later. One forward later the cache would hold what the
version before it computed, so that is what it attends to: at every position the latest entry on the way to it, the
store's where there is none. Which positions are fed on the way is what the policy says of each state, by its own clock
and stamps. So a policy need not know about drafts, and keeps its delay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.branch_kv import BranchKV
from cache.context import PolicyContext
from cache.visibility import BranchVisibility
from dlm.engine.batch import map_state, renew_state
from dlm.engine.branches import Branches, BranchPlan, blocks_of, canvas_of
from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.interfaces import State
from dlm.engine.plan import CacheQuery, Feed, sees
from dlm.engine.proposal import Proposal
from dlm.engine.step import BlockState, StepView

if TYPE_CHECKING:
    from cache.run import Run


class BranchLineage(NamedTuple):
    """What leads to each version.

    Attributes:
        stamps: the tokens that stored keys were computed for, before its own step. ``[V, W]``
        fed: what its own step is fed. ``[V, W]``
        before: the version that computed a position last, of those it follows; -1: none of them. ``[V, W]``
        seen: what it may attend to. ``[V, W]``
    """

    stamps: Int[Tensor, "V W"]
    fed: Bool[Tensor, "V W"]
    before: Int[Tensor, "V W"]
    seen: Bool[Tensor, "V W"]


@dataclass(frozen=True)
class Looks:
    """Versions that were fed and wait to hear which of them are kept.

    Attributes:
        way: what leads to each.
        tokens: theirs. ``[V, W]``
        peek: their keys and values; None when every row was recomputed whole.
        slots: rows that were not recomputed whole; None: all of them. ``[P]``
        place: the row of the feed each version is. ``[V]``
        most: most positions one version and those it follows were fed.
    """

    way: BranchLineage
    tokens: Int[Tensor, "V W"]
    peek: BranchKV | None
    slots: Int[Tensor, " P"] | None
    place: Int[Tensor, " V"]
    most: int

    def accept(self, kept: Int[Tensor, " B"]) -> Int[Tensor, "B W"]:
        """Write what the kept versions and those they follow computed; returns the stamps after that."""
        if self.peek is not None:
            versions = kept if self.slots is None else kept[self.slots]
            self.peek.accept(self.place[versions], self.most)
        return torch.where(self.way.fed[kept], self.tokens[kept], self.way.stamps[kept])


def spread(run: Run, versions: Branches) -> tuple[BranchPlan, Looks]:
    """The feeds of the versions, in a call for rows that are recomputed whole (their first versions alone) and one for
    all others."""
    way, asked, store = _way(run, versions), run.asked, run.store
    rows, device = len(asked.counts), versions.owner.device
    whole = [slot for slot in range(rows) if asked.whole[slot]]
    feeds: list[Feed] = []
    if whole and not run.narrow:
        feed = run.refresh(asked.now, whole)
        feeds.append(_of_first(feed, versions))
    else:
        whole = []
    if len(whole) == rows:
        none = Looks(way, versions.canvas.tokens, None, None, versions.owner, 0)
        return BranchPlan(tuple(feeds), asked.counts, way.fed, []), none

    fed, borrowed, most = _sizes(run, versions, way)
    slots = chosen = None
    place = torch.arange(versions.owner.shape[0], device=device)
    if whole:
        others = torch.tensor([slot for slot in range(rows) if slot not in whole], device=device)
        numbers = [number for number, slot in enumerate(_owners(versions)) if slot not in whole]
        slots, chosen = others, torch.tensor(numbers, device=device)
        place = torch.zeros_like(place).scatter(0, chosen, place[: len(numbers)])
    totals = [0] * rows
    for slot, count in zip(_owners(versions), fed, strict=True):
        totals[slot] += count
    for slot in whole:
        totals[slot] = asked.counts[slot]
    feed, peek = _partial(run, versions, way, chosen, place, (max(fed), max(borrowed)))
    looks = Looks(way, versions.canvas.tokens, peek, slots, place, min(most, store.columns - 1))
    return BranchPlan((feed, *feeds), totals, way.fed, [slot for slot in range(rows) if slot not in whole]), looks


def _way(run: Run, versions: Branches) -> BranchLineage:
    """Follow every version from the row as it stands."""
    asked, canvas, blocks, owner = run.asked, versions.canvas, versions.blocks, versions.owner
    fed, stamps = asked.active[owner], run.stamps[owner]
    before, seen = torch.full_like(stamps, -1), asked.seen[owner]
    if run.policy.uniform_feed and versions.levels:  # then every version is fed what the row is
        above = versions.parent
        follows = fed & (above != torch.arange(above.shape[0], device=above.device))[:, None]
        stamps = torch.where(follows, canvas.tokens[above], stamps)
        return BranchLineage(stamps, fed, torch.where(follows, above[:, None], before), seen)
    state = _rows(run.state, owner)
    live = canvas.columns < canvas.end[:, None]
    for level in versions.levels:
        above = versions.parent[level]
        stamps[level] = torch.where(fed[above], canvas.tokens[above], stamps[above])
        before[level] = torch.where(fed[above], above[:, None], before[above])
        state = _follow(run, versions, level, state)
        at, when = canvas_of(canvas, canvas.tokens[level], level), blocks_of(blocks, level)
        wanted = versions.wanted[level]
        now = CacheQuery(at, when, at.masked & when.block, wanted, ())
        changed = (stamps[level] != at.tokens) & live[level]
        here = PolicyContext(now, changed, live[level], run.layout.shift, run.layout.attention_block)
        needed = run.needed(wanted, None if versions.ahead is None else versions.ahead[level])
        seen[level], _ = run.in_sight(here, needed)
        own = _rows(state, level)
        fed[level] = (run.policy.active(here, own) | changed | needed) & seen[level]
    return BranchLineage(stamps, fed, before, seen)


def _follow(run: Run, versions: Branches, level: Tensor, state: State) -> State:
    """The policy's memory of the versions ``level``, from those they follow."""
    if state is None:
        return None
    above = versions.parent[level]
    canvas = canvas_of(versions.canvas, versions.canvas.tokens[above], above)
    view = _blank(canvas, blocks_of(versions.blocks, above))
    new, _ = run.policy.remember(view, view.eligible, _rows(state, above))
    laid = map_state(lambda x: x.new_zeros(versions.owner.shape[0], *x.shape[1:]).index_copy(0, level, x), new)
    fresh = torch.zeros_like(versions.owner, dtype=torch.bool).index_fill(0, level, True)
    return renew_state(state, laid, fresh)


def _rows(state: State, index: Int[Tensor, " R"]) -> State:
    return map_state(lambda x: x[index], state)


def _blank(canvas: Canvas, blocks: BlockState) -> StepView:
    """A view that proposes nothing."""
    nothing = canvas.tokens[:, :0]
    none = torch.zeros_like(nothing, dtype=torch.float32)
    return StepView(canvas, blocks, nothing, nothing.bool(), Proposal(nothing, none))


def _sizes(run: Run, versions: Branches, way: BranchLineage) -> tuple[list[int], list[int], int]:
    """Positions each version is fed and borrows, and the most that one and those it follows are fed."""
    asked = run.asked
    if run.policy.uniform_feed or not versions.levels:
        counts = [0 if asked.whole[slot] and not run.narrow else asked.counts[slot] for slot in _owners(versions)]
        return counts, [0] * len(counts), max(counts)
    whole = torch.tensor(asked.whole, device=way.fed.device)[versions.owner, None] & (not run.narrow)
    borrowed = way.seen & ~way.fed & (way.before >= 0)
    sizes = torch.stack([way.fed & ~whole, borrowed & ~whole, (way.fed | (way.before >= 0)) & ~whole])
    fed, lent, together = sizes.sum(dim=2).tolist()
    return fed, lent, max(together)


def _partial(
    run: Run,
    versions: Branches,
    way: BranchLineage,
    chosen: Int[Tensor, " R"] | None,
    place: Int[Tensor, " V"],
    widths: tuple[int, int],
) -> tuple[Feed, BranchKV]:
    """The call for versions of rows that are not recomputed whole: the versions ``chosen``, None: all."""
    canvas, reaches = versions.canvas, [row.reach for row in run.asked.now.rows]
    pick = slice(None) if chosen is None else chosen
    fed, reach, block = way.fed[pick], max(reaches), run.layout.attention_block
    positions = pack_positions(fed, canvas.columns, run.rounded(widths[0]))
    valid = way.seen[pick, :reach] if run.narrow else None
    if not run.narrow and min(reaches) < reach:
        valid = canvas.columns[:reach] < canvas.end[pick, None]
    if block:
        valid = sees(positions, canvas.columns[:reach], block, valid)
    before = way.before[pick]
    before = torch.where(before < 0, before, place[before.clamp_min(0)])
    borrowed = way.seen[pick] & ~fed & (before >= 0) if widths[1] else torch.zeros_like(fed)
    sight = BranchVisibility(
        slot=versions.owner[pick],
        positions=positions,
        fed=fed,
        before=before,
        borrowed=pack_positions(borrowed, canvas.columns, widths[1]),
        reach=reach,
    )
    peek = BranchKV(run.store, sight=sight)
    tokens = canvas.tokens[pick].gather(1, positions)
    return Feed(tokens, positions, valid, peek, reach, slots=chosen), peek


def _of_first(feed: Feed, versions: Branches) -> Feed:
    """A call of some rows, told by their first versions."""
    return replace(feed, slots=versions.first if feed.slots is None else versions.first[feed.slots])


def _owners(versions: Branches) -> list[int]:
    """The slot of each version, on the host."""
    return [slot for slot, count in enumerate(versions.counts) for _ in range(count)]
