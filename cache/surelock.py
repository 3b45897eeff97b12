"""SureLock (arXiv 2602.06412): a position whose distribution no longer moves is not computed again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.run import Run
from dlm.engine.canvas import Canvas
from dlm.engine.plan import Layout
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class SureLock(Policy):
    """SureLock: a position that holds a token, of the prompt too, is locked once its distribution is at most ``bound``
    away from that of the forward before, by KL(now || before). Its keys and values stay, nothing of it is computed
    any more. What is masked is computed at every step, and so is what is not locked.

    The divergence takes the head for every position that is fed and holds a token, twice.

    Attributes:
        bound: in nats; the default is ours (docs/caches.md). 0 locks nothing but what stands still.

    Raises:
        SettingsError: a negative bound.
    """

    bound: float = 1e-3
    serves_branches = False
    composable = False

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise SettingsError(f"bound is a divergence in nats and must be 0 or more, got {self.bound}")

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"kl"})

    def open(self, layout: Layout) -> SureLockRun:
        return SureLockRun(self, layout)

    def init(self, canvas: Canvas) -> Bool[Tensor, "B W"]:
        """What is locked."""
        return torch.zeros_like(canvas.writable)

    def refreshes(self, row: Row) -> bool:
        return row.steps == 0

    def active(self, context: PolicyContext, state: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        return context.live & ~state

    def watched(self, context: PolicyContext, state: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        # The first forward of a row has none before it.
        held = context.live & ~context.query.canvas.masked & (context.query.blocks.step > 0)[:, None]
        return context.shown(held) & context.live


class SureLockRun(Run):
    """Locks what it has fed; only here it is known which row of the model a proposal comes from."""

    policy: SureLock

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        report, canvas = super().end(view, chosen), view.canvas
        assert view.proposal.kl is not None
        still = self.answering(view.marks((view.proposal.kl <= self.policy.bound) & view.real))
        # Never with the keys of another token, be it a mask.
        self.state = (self.state | still) & ~canvas.masked & (self.stamps == canvas.tokens)
        return report
