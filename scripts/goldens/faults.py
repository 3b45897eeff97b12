"""The references' faults as small policies and sampler parts of our own, for :class:`scripts.goldens.plan.Fault`.

Nothing here is meant for use: each class repeats one thing that a released cache does otherwise than it should, so that
a run with it can be compared with the record.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.d2 import D2Cache, Observed, density
from cache.dsb import DSB
from cache.greedy import DKVGreedy, near
from cache.kv_store import Access
from cache.policy import Policy
from cache.run import Run
from cache.sparse import Choosing, Sparse, SparseRun
from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser, Score, Selector
from dlm.engine.plan import CacheQuery, Layout
from dlm.engine.row import Row
from dlm.engine.step import BlockState, RowSize, State, StepView, rank
from samplers.selectors.dawn import Dawn, independent


@dataclass(frozen=True)
class TailFed(DSB):
    """DCD's cache, whose window reaches to the end of the row once fewer positions are open than it holds.

    Attributes:
        size, widest: the window's open positions and its bound.
    """

    size: int = 16
    widest: int = 128

    def _end(self, context: PolicyContext) -> Int[Tensor, "B 1"]:
        canvas = context.query.canvas
        few = canvas.masked.sum(dim=1, keepdim=True) < self.size
        return torch.where(
            few, torch.minimum(context.block_start + self.widest, canvas.end[:, None]), context.block_end
        )


class Unstamped(Run):
    """A cache that does not notice that the token of a stored key has changed."""

    def _context(self, query: CacheQuery) -> PolicyContext:
        context = super()._context(query)
        return replace(context, changed=torch.zeros_like(context.changed))


@dataclass(frozen=True)
class D2Shifted(Policy):
    """d2Cache's block caches for Dream: the block (and for the prefix cache what follows it) moved by one to the left,
    so that the last row is never recomputed once its token is there.

    Attributes:
        dual: whether only the block is fed.
    """

    dual: bool

    def open(self, layout: Layout) -> Run:
        return Unstamped(self, layout)

    def refreshes(self, row: Row) -> bool:
        return row.block_steps == 0

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        end = context.block_end if self.dual else context.query.canvas.end[:, None]
        return (context.columns >= context.block_start - 1) & (context.columns < end - 1)


@dataclass(frozen=True)
class ToppedUp(D2Cache):
    """d2Cache as released, whose rows are all fed as many positions as the one that is fed most: the answer first, by
    rollout and by how nearly settled a position was, then the prompt.

    Attributes:
        fed: positions fed to every row, for each block and step of it.
    """

    fed: tuple[tuple[int, ...], ...] = ()

    def active(self, context: PolicyContext, state: Observed) -> Bool[Tensor, "B W"]:
        active, canvas, blocks = super().active(context, state), context.query.canvas, context.query.blocks
        settled = state.confidence * density(canvas, self.sigma)
        settled = settled + settled.max() * (context.query.eligible & (blocks.block_step > 0)[:, None])
        scores = state.importance + (state.importance.max() + settled) * canvas.generated
        places = zip(blocks.block_number.tolist(), blocks.block_step.tolist(), strict=True)
        fed = [self.fed[block - 1][min(step, len(self.fed[block - 1]) - 1)] for block, step in places]
        lacking = torch.tensor(fed)[:, None] - active.sum(dim=1, keepdim=True)
        return active | (rank(scores.masked_fill(active | ~context.live, -torch.inf)) < lacking)


@dataclass(frozen=True)
class KnownOrder(Score):
    """Scores that make positions come in a recorded order, whatever the model says.

    Attributes:
        orders: absolute positions of each row of the batch, first to last.
    """

    orders: tuple[tuple[int, ...], ...]
    non_negative = True
    order_known = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        places = torch.zeros_like(view.canvas.tokens, dtype=torch.float32)
        for row, order in enumerate(self.orders[: len(places)]):
            places[row, list(order)] = torch.arange(len(order), 0, -1, dtype=torch.float32)
        return places.gather(1, view.positions), state


@dataclass(frozen=True)
class InOrder(DKVGreedy):
    """dKV-Cache-Greedy whose windows are laid in the order in which the positions are committed; ours goes from left to
    right, which gives another union where two windows meet.

    Attributes:
        orders: absolute positions of each row of the batch, first to last.
    """

    orders: tuple[tuple[int, ...], ...] = ()

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        upcoming, masks = context.query.upcoming, context.query.canvas.masked & context.live
        assert upcoming is not None
        active = upcoming.clone()
        for row in range(upcoming.shape[0]):
            for position in self.orders[row]:
                if upcoming[row, position]:
                    alone = torch.zeros_like(upcoming[row : row + 1])
                    alone[0, position] = True
                    free = masks[row : row + 1] & ~active[row : row + 1]
                    active[row] |= near(context.query.canvas, alone, free, self.window, 1)[0]
        return active


@dataclass(frozen=True)
class AnyOfEqual(Sparse):
    """Sparse-dLLM with the order that torch.topk happens to give equal scores, of which its maximum filter makes many;
    ours keeps the lower position. For a single row."""

    def open(self, layout: Layout) -> SparseRun:
        return _AnyOfEqualRun(self, layout)


class _AnyOfEqualRun(SparseRun):
    def refreshing(self, query: CacheQuery, slots: Int[Tensor, " R"] | None) -> Access:
        found = super().refreshing(query, slots)
        return _ChoosingAny(**{f.name: getattr(found, f.name) for f in fields(found)})


class _ChoosingAny(Choosing):
    @staticmethod
    def kept(scores: Float[Tensor, "R T"], count: Int[Tensor, " R"]) -> Bool[Tensor, "R T"]:
        real = int((scores > -torch.inf).sum())
        best = scores[:, :real].topk(int(count[0]), dim=1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)


@dataclass(frozen=True)
class PublishedDawn(Dawn):
    """DAWN as published: what follows from a sure *and* induced position is left out of the graph, where the text
    suggests "or"; and its greedy loop goes on when no node is left, at position 0, so that the prompt's first token is
    overwritten. For a single row."""

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        depends = self._dependence(view)
        visible = view.here(~view.canvas.masked) & (view.proposal.prob >= self.sure)
        sure = (view.scores >= self.sure) & view.eligible
        induced = (view.scores >= self.induced) & view.eligible & (depends & visible[:, None, :]).any(dim=2)
        followed = (depends & (sure & induced)[:, None, :]).any(dim=2)
        nodes = (view.scores >= self.low) & view.eligible & ~sure & ~induced & ~followed
        free = independent(view.scores.masked_fill(~nodes, -torch.inf), nodes, depends, view.most)
        if int(nodes.sum()) > int(free.sum()):
            view.canvas.tokens[0, 0] = view.proposal.token[0, 0]
        return sure | induced | free, state


@dataclass(frozen=True)
class PublishedRCR(Selector):
    """RCR as published, whose choice of what to mask again runs over the whole row: a prompt token counts as sure as
    1.0, and where generated ones are as sure, torch.topk may take it, so that the prompt is masked and filled anew. For
    a single row.

    Attributes:
        notes: filled at every step: the positions that are masked behind it, for :class:`MaskNoted`.
    """

    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)

    uses_budget = True

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        """The confidence of every position when it was last filled."""
        return torch.zeros_like(canvas.commit_confidence, dtype=torch.float32)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return (canvas.tokens == canvas.mask_id) & (canvas.columns < blocks.block_end[:, None])

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.row

    def step(self, view: StepView, state: Float[Tensor, "B W"]) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B W"]]:
        assert view.budget is not None
        canvas, left = view.canvas, int(view.eligible.sum() - view.budget)
        open_ = self.positions_to_score(canvas, view.blocks)
        left += int((open_ & ~canvas.writable).sum())
        state = torch.where(open_, view.on_canvas(view.proposal.prob.float()), state)
        values = torch.where(state == 0.0, 1.0, state)[:, : canvas.scratch]
        masked = torch.zeros_like(open_).scatter(1, values.topk(left, dim=1, largest=False).indices, True)
        self.notes["masked"] = masked
        prompt = canvas.columns < canvas.start[:, None]
        filled = torch.where(open_, view.on_canvas(view.proposal.token), canvas.tokens).masked_fill(
            masked, canvas.mask_id
        )
        canvas.tokens.copy_(torch.where(prompt, filled, canvas.tokens))
        return view.eligible & ~view.here(masked), state


@dataclass(frozen=True)
class MaskNoted(Reviser):
    """Takes back what :class:`PublishedRCR` has noted."""

    notes: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Bool[Tensor, "B W"], None]:
        return self.notes["masked"], state
