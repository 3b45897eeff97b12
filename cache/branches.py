"""A cached step for several branches of every row: each is fed what it would be fed, and sees what it would see.

A branch that follows another one (a draft) is a state one step later. One forward later the cache would hold what the
branch before it computed, so that is what it attends to: at every position the latest entry on the way to it, the
store's where there is none. Which positions are fed on the way is what the policy says of each state, by its own block
state and stamps. So a policy need not know about drafts, and keeps its delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.run import Run
from cache.tree_attention import BranchKV, BranchVisibility
from dlm.engine.canvas import Canvas, pack_positions, versions
from dlm.engine.plan import Branches, BranchPlan, CacheQuery, Feed, ForwardPlan
from dlm.engine.proposal import Proposal
from dlm.engine.row import Row
from dlm.engine.step import BlockState, State, StepView, map_state, renew_state
from dlm.models.backbone import sees


class BranchLineage(NamedTuple):
    """What leads to each branch.

    Attributes:
        stamps: the tokens that stored keys were computed for, before its own step. ``[V, W]``
        fed: what its own step is fed. ``[V, W]``
        before: the branch that computed a position last, of those it follows; -1: none of them. None: all branches of a
            row are fed the same positions, which no other can have computed later. ``[V, W]``
        seen: what it may attend to. ``[V, W]``
    """

    stamps: Int[Tensor, "V W"]
    fed: Bool[Tensor, "V W"]
    before: Int[Tensor, "V W"] | None
    seen: Bool[Tensor, "V W"]


@dataclass(frozen=True)
class PendingBranches:
    """Branches that were fed and wait to hear which of them are kept.

    Attributes:
        lineage: what leads to each.
        alike: what every branch of a row is fed, and the row's stamps; None: that differs. ``[B, W]``
        tokens: theirs. ``[V, W]``
        kv: their keys and values; None when every row was recomputed whole.
        slots: rows that were not recomputed whole; None: all of them. ``[P]``
        place: the row of the feed each branch is; None: in order. ``[V]``
        most: most positions one branch and those it follows were fed.
    """

    lineage: BranchLineage
    alike: tuple[Bool[Tensor, "B W"], Int[Tensor, "B W"]] | None
    tokens: Int[Tensor, "V W"]
    kv: BranchKV | None
    slots: Int[Tensor, " P"] | None
    place: Int[Tensor, " V"] | None
    most: int

    def accept(self, kept: Int[Tensor, " B"]) -> Int[Tensor, "B W"]:
        """Write what the kept branches and those they follow computed; returns the stamps after that."""
        if self.kv is not None:
            branches = kept if self.slots is None or self.place is None else self.place[kept[self.slots]]
            self.kv.accept(branches, self.most)
        if self.alike is None:
            return torch.where(self.lineage.fed[kept], self.tokens[kept], self.lineage.stamps[kept])
        # Whatever any of them was fed, the last one was fed too.
        fed, stamps = self.alike
        return torch.where(fed, self.tokens[kept], stamps)


class BranchingRun(Run):
    """A policy at work that can also feed several branches of every row."""

    pending: PendingBranches
    fed_positions: Int[Tensor, "B T"] | None = None  # of the step's rows that are not recomputed whole

    def evaluable(self, row: Row) -> int:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        if self.policy.refreshes(row):
            return 0
        for number, (steps, block_steps) in enumerate(row.ahead):
            if self.policy.refreshes(replace(row, steps=steps, block_steps=block_steps)):
                return number
        return len(row.ahead)

    def accept(self, kept: Int[Tensor, " B"]) -> None:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        self.stamped = self.pending.accept(kept)

    def spread(self, branches: Branches) -> BranchPlan:
        """A call for rows that are recomputed whole (their first branches alone) and one for all others. Waits for the
        device once more where the positions fed are not those of the step before."""
        last, counts, owners = self.last, [0] * len(self.last.counts), _owners(branches)
        lineage, tokens = self._lineage(branches), branches.canvas.tokens
        whole = [] if self.narrow else [slot for slot, full in enumerate(last.whole) if full]
        others = [slot for slot in range(len(counts)) if slot not in whole]
        feeds = [_of_first(self.refresh(last.query, whole), branches)] if whole else []
        for slot in whole:
            counts[slot] = last.counts[slot]
        alike = (last.active, self.stamps) if lineage.before is None else None
        any_way = lineage.before is None or self.policy.exact
        if not others:
            self.pending = PendingBranches(lineage, alike, tokens, None, None, None, 0)
            return BranchPlan(tuple(feeds), counts, lineage.fed, [], any_way)
        fed, borrowed, most = self._sizes(branches, lineage)
        for slot, count in zip(owners, fed, strict=True):
            counts[slot] += 0 if slot in whole else count
        slots = chosen = place = None
        if whole:
            slots = torch.tensor(others, device=tokens.device)
            chosen = torch.tensor([i for i, slot in enumerate(owners) if slot not in whole], device=tokens.device)
            # Where in the feed each branch stands; those of whole rows are not in it.
            order = torch.arange(chosen.shape[0], device=tokens.device)
            place = torch.zeros_like(branches.owner).scatter(0, chosen, order)
        feed, kv = self._branch_feed(branches, lineage, chosen, place, (max(fed), max(borrowed)))
        self.pending = PendingBranches(lineage, alike, tokens, kv, slots, place, min(most, self.store.columns - 1))
        return BranchPlan((feed, *feeds), counts, lineage.fed, others, any_way)

    def _lineage(self, branches: Branches) -> BranchLineage:
        """Follow every branch from the row as it stands."""
        last, canvas, owner = self.last, branches.canvas, branches.owner
        fed, stamps, seen = (versions(x, owner) for x in (last.active, self.stamps, last.seen))
        if self._alike(branches):
            return BranchLineage(stamps, fed, None, seen)
        before = torch.full_like(stamps, -1)
        if branches.remasks:
            live = canvas.columns < canvas.end[:, None]
            # A token that was taken back is none that the row is fed anyway: its key is that of the token.
            needed = self.needed(branches.wanted, branches.ahead)
            fed = (fed | needed | ((stamps != canvas.tokens) & live)) & seen
        if not any(branches.depths):
            return BranchLineage(stamps, fed, before, seen)
        fed, stamps, seen = fed.clone(), stamps.clone(), seen.clone()
        state, live = _rows(self.state, owner), canvas.columns < canvas.end[:, None]
        for depth in sorted({*branches.depths} - {0}):
            level = torch.tensor([i for i, d in enumerate(branches.depths) if d == depth], device=owner.device)
            above = branches.parent[level]
            # What the branch above was fed is what the store would hold by now.
            stamps[level] = torch.where(fed[above], canvas.tokens[above], stamps[above])
            before[level] = torch.where(fed[above], above[:, None], before[above])
            state = self._follow(branches, level, state)
            at, when = canvas.branched(canvas.tokens[level], level), branches.blocks.of(level)
            wanted = branches.wanted[level]
            query = CacheQuery(at, when, at.masked & when.block, wanted, ())
            changed = (stamps[level] != at.tokens) & live[level]
            here = PolicyContext(query, changed, live[level], self.layout.shift, self.layout.attention_block)
            needed = self.needed(wanted, None if branches.ahead is None else branches.ahead[level])
            seen[level], _ = self.in_sight(here, needed)
            active = self.policy.active(here, _rows(state, level))
            fed[level] = (active | changed | needed) & seen[level]
        return BranchLineage(stamps, fed, before, seen)

    def _follow(self, branches: Branches, level: Int[Tensor, " L"], state: State) -> State:
        """The policy's memory of the branches ``level``, from those they follow."""
        if state is None:
            return None
        above = branches.parent[level]
        canvas = branches.canvas.branched(branches.canvas.tokens[above], above)
        view = _blank(canvas, branches.blocks.of(above))
        new, _ = self.policy.remember(view, view.eligible, _rows(state, above))
        laid = map_state(lambda x: x.new_zeros(branches.owner.shape[0], *x.shape[1:]).index_copy(0, level, x), new)
        fresh = torch.zeros_like(branches.owner, dtype=torch.bool).index_fill(0, level, True)
        return renew_state(state, laid, fresh)

    def _sizes(self, branches: Branches, lineage: BranchLineage) -> tuple[list[int], list[int], int]:
        """Positions each branch is fed and borrows, and the most that one and those it follows are fed."""
        last = self.last
        if lineage.before is None:
            counts = [0 if last.whole[slot] and not self.narrow else last.counts[slot] for slot in _owners(branches)]
            return counts, [0] * len(counts), max(counts)
        whole = torch.tensor(last.whole, device=lineage.fed.device)[branches.owner, None] & (not self.narrow)
        borrowed = lineage.seen & ~lineage.fed & (lineage.before >= 0)
        sizes = torch.stack([lineage.fed, borrowed, lineage.fed | (lineage.before >= 0)]) & ~whole
        fed, lent, together = sizes.sum(dim=2).tolist()
        return fed, lent, max(together)

    def _alike(self, branches: Branches) -> bool:
        """Whether every branch is fed what its row is."""
        return not branches.remasks and (self.policy.uniform_feed or not any(branches.depths))

    def plan(self, query: CacheQuery) -> ForwardPlan:
        """See :class:`dlm.engine.interfaces.CacheRun`."""
        plan = super().plan(query)
        # A row that happens to be fed whole is not among those whose positions are packed.
        packed = len(plan.feeds) == 1 or all(self.last.whole[slot] for slot in plan.refreshed)
        self.fed_positions = plan.feeds[0].positions if packed else None
        return plan

    def _branch_feed(
        self,
        branches: Branches,
        lineage: BranchLineage,
        chosen: Int[Tensor, " R"] | None,
        place: Int[Tensor, " V"] | None,
        widths: tuple[int, int],
    ) -> tuple[Feed, BranchKV]:
        """The call for branches of rows that are not recomputed whole: the branches ``chosen``, None: all."""
        canvas, ends = branches.canvas, [row.visible_end for row in self.last.query.rows]
        pick = slice(None) if chosen is None else chosen
        fed, reach, block = lineage.fed[pick], max(ends), self.layout.attention_block
        one = branches.owner[pick]
        if lineage.before is None and self.fed_positions is not None:
            positions = versions(self.fed_positions, one)
        else:
            positions = pack_positions(fed, canvas.columns, self.rounded(widths[0]))
        valid = lineage.seen[pick, :reach] if self.narrow else None
        if not self.narrow and min(ends) < reach:
            valid = canvas.columns[:reach] < canvas.end[pick, None]
        if block:
            valid = sees(positions, canvas.columns[:reach], block, valid)
        before, borrowed = None if lineage.before is None else lineage.before[pick], positions[:, :0]
        if before is not None and place is not None:
            before = torch.where(before < 0, before, place[before.clamp_min(0)])
        if before is not None and widths[1]:
            lent = lineage.seen[pick] & ~fed & (before >= 0)
            borrowed = pack_positions(lent, canvas.columns, widths[1])
        visibility = BranchVisibility(
            slot=one, positions=positions, fed=fed, before=before, borrowed=borrowed, reach=reach
        )
        kv = BranchKV(self.store, visibility=visibility)
        tokens = canvas.tokens[pick].gather(1, positions)
        return Feed(tokens, positions, valid, kv, reach, slots=chosen), kv


def _rows(state: State, index: Int[Tensor, " R"]) -> State:
    return map_state(lambda x: x[index], state)


def _blank(canvas: Canvas, blocks: BlockState) -> StepView:
    """A view that proposes nothing."""
    nothing = canvas.tokens[:, :0]
    none = torch.zeros_like(nothing, dtype=torch.float32)
    return StepView(canvas, blocks, nothing, nothing.bool(), Proposal(nothing, none))


def _of_first(feed: Feed, branches: Branches) -> Feed:
    """A call of some rows, told by their first branches."""
    return replace(feed, slots=branches.first if feed.slots is None else branches.first[feed.slots])


def _owners(branches: Branches) -> Sequence[int]:
    """The slot of each branch, on the host."""
    return [slot for slot, count in enumerate(branches.counts) for _ in range(count)]
