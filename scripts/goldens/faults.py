"""The references' faults as small policies and sampler parts of our own, for :class:`scripts.goldens.plan.Fault`.

Nothing here is meant for use: each class repeats one thing that a released cache does otherwise than it should, so that
a run with it can be compared with the record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cache.context import PolicyContext
from cache.greedy import DKVGreedy, near
from cache.policy import Policy
from cache.run import Run
from dlm.engine.interfaces import Score
from dlm.engine.plan import CacheQuery, Layout
from dlm.engine.row import Row
from dlm.engine.step import State, StepView


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
class KnownOrder(Score):
    """Scores that make positions come in a recorded order, whatever the model says.

    Attributes:
        order: absolute positions, first to last.
    """

    order: tuple[int, ...]
    non_negative = True
    order_known = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        places = torch.zeros_like(view.canvas.tokens, dtype=torch.float32)
        places[:, list(self.order)] = torch.arange(len(self.order), 0, -1, dtype=torch.float32)
        return places.gather(1, view.positions), state


@dataclass(frozen=True)
class InOrder(DKVGreedy):
    """dKV-Cache-Greedy whose windows are laid in the order in which the positions are committed; ours goes from left to
    right, which gives another union where two windows meet.

    Attributes:
        order: absolute positions, first to last.
    """

    order: tuple[int, ...] = ()

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        upcoming, masks = context.query.upcoming, context.query.canvas.masked & context.live
        assert upcoming is not None
        active = upcoming.clone()
        for row in range(upcoming.shape[0]):
            for position in self.order:
                if upcoming[row, position]:
                    alone = torch.zeros_like(upcoming[row : row + 1])
                    alone[0, position] = True
                    free = masks[row : row + 1] & ~active[row : row + 1]
                    active[row] |= near(alone, free, self.window)[0]
        return active
