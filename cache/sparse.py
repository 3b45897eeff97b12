"""Sparse-dLLM (arXiv 2508.02558): keys outside the block that the block hardly looks at are evicted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.kv_store import Access, Refreshing, Writing, move_up
from cache.policy import Policy
from cache.run import Run
from cache.settings import at_least, share
from dlm.engine.canvas import pack_positions
from dlm.engine.plan import CacheQuery, Layout
from dlm.engine.row import Row
from dlm.engine.step import State, rank
from dlm.errors import SettingsError
from dlm.models.architecture import Rope
from dlm.models.block import Block, Exchange


@dataclass(frozen=True)
class Sparse(Policy):
    """Dual cache over a part of the keys. The first two steps of a block recompute everything; at the second each layer
    keeps, of the positions outside the block, those whose keys answer the block's mean query best.

    Evicted keys are hidden, not freed: the buffer stays as large as without eviction.

    Attributes:
        keep: share of the positions outside the block that stay (the paper: 0.5).
        kernel: odd width of the maximum filter over the scores (3).

    Raises:
        SettingsError: ``keep`` outside (0, 1], an even or non-positive kernel.
    """

    keep: float = 0.5
    kernel: int = 3
    serves_branches = False
    composable = False
    full_attention = True
    shadowless = "a shadow block needs one mask for all layers, and eviction hides other keys in each"
    refreshes_with_blocks = True

    def __post_init__(self) -> None:
        share(keep=self.keep)
        at_least(1, kernel=self.kernel)
        if self.kernel % 2 == 0:
            raise SettingsError(f"kernel must be an odd number of positions, got {self.kernel}")

    def open(self, layout: Layout) -> SparseRun:
        return SparseRun(self, layout)

    def refreshes(self, row: Row) -> bool:
        return row.block_steps <= 1

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.span(context.block_start, context.block_end)


class SparseRun(Run):
    """Beside the buffer, per layer which keys are left."""

    policy: Sparse

    def __init__(self, policy: Sparse, layout: Layout) -> None:
        super().__init__(policy, layout)
        self.left: list[Tensor] = []

    def refreshing(self, query: CacheQuery, slots: Int[Tensor, " R"] | None) -> Access:
        chosen = list(range(len(query.rows))) if slots is None else slots.tolist()
        second = torch.tensor([query.rows[slot].block_steps == 1 for slot in chosen], device=query.canvas.start.device)
        block, end = (x if slots is None else x[slots] for x in (query.blocks.block, query.canvas.end))
        live = query.canvas.columns < end[:, None]
        return Choosing(self.store, 0, slots, self, block, live & ~block, second)

    def writing(self, query: CacheQuery, positions: Int[Tensor, "B T"], reach: int) -> Access:
        return WritingLeft(self.store, 0, positions, reach, self.left, query.blocks.block)

    def keep(self, slots: list[int]) -> None:
        rows = self.stamps.shape[0]
        super().keep(slots)
        every = [stream * rows + slot for stream in range(self.layout.streams) for slot in slots]
        self.left = [move_up(layer, every) for layer in self.left]


@dataclass(frozen=True)
class Choosing(Refreshing):
    """A refresh that settles what is left of each layer, for rows in the second step of a block.

    Attributes:
        run: whose choice it is.
        block, outside: the active block of each row, and its other positions. ``[R, W]``
        second: rows that choose now. ``[R]``
    """

    run_: SparseRun | None = None
    block: Any = None
    outside: Any = None
    second: Any = None

    def exchange(self, layer: int, block: Block, x: Tensor) -> Exchange:
        assert self.run_ is not None
        left, keeping = self.run_.left, super().exchange(layer, block, x)
        if layer == len(left):
            left.append(torch.ones(self.store.rows, self.store.columns, dtype=torch.bool, device=x.device))

        # Every layer evicts by its own scores, so what is left is kept per layer and no mask of the plan can say it.
        def choose(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
            chosen = self._best(q, k)
            rows = torch.arange(self.store.rows, device=x.device) if self.slots is None else self.slots
            left[layer][rows] = torch.where(self.second[:, None], chosen, left[layer][rows])
            return keeping(q, k, v, mask)

        return choose

    def _best(self, q: Float[Tensor, "R T H h"], k: Float[Tensor, "R T K h"]) -> Bool[Tensor, "R W"]:
        """The positions outside the block with the best scores: the mean over heads of mean block query times key."""
        assert self.run_ is not None
        policy, fed = self.run_.policy, q.shape[1]
        inside = self.block[:, :fed, None, None]
        query = (q * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(1)
        group = q.shape[2] // k.shape[2]
        query = query.view(query.shape[0], k.shape[2], group, -1).mean(dim=2)
        scores = torch.einsum("rkh,rtkh->rt", query.float(), k.float()) / k.shape[2]
        columns = torch.arange(self.outside.shape[1], device=q.device)
        # The filter runs over the outside positions alone, so that the two sides of the block touch.
        places = pack_positions(self.outside, columns, fed)
        real = places < fed
        lined = scores.gather(1, places.clamp_max(fed - 1)).masked_fill(~real, -torch.inf)
        pad = min(policy.kernel // 2, fed)
        lined = torch.nn.functional.max_pool1d(lined[:, None], 2 * pad + 1, 1, pad)[:, 0]
        lined = lined.masked_fill(~real, -torch.inf)
        count = (policy.keep * real.sum(dim=1).double()).long()
        best = self.kept(lined, count) & real
        return torch.zeros_like(self.outside).scatter(1, places, best)

    @staticmethod
    def kept(scores: Float[Tensor, "R T"], count: Int[Tensor, " R"]) -> Bool[Tensor, "R T"]:
        """The ``count`` best of each row; equal ones: the lower place first."""
        return rank(scores) < count[:, None]

    def doubled(self) -> Choosing:
        block, outside = self.block.repeat(2, 1), self.outside.repeat(2, 1)
        slots = super().doubled().slots
        return replace(self, slots=slots, block=block, outside=outside, second=self.second.repeat(2))


@dataclass(frozen=True)
class WritingLeft(Writing):
    """Attend to the block and what each layer has left."""

    left: list[Tensor] = field(default_factory=list)
    block: Any = None

    def run(self, layer: int, block: Block, x: Float[Tensor, "R T D"], rope: Rope, mask: Tensor | None) -> Tensor:
        seen = (self.left[layer] | self.block)[:, None, None, : self.reach]
        return super().run(layer, block, x, rope, seen if mask is None else seen & mask)

    def doubled(self) -> WritingLeft:
        return replace(self, positions=super().doubled().positions, block=self.block.repeat(2, 1))
