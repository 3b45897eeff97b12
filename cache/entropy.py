"""Refresh when the model was unsure (EntropyCache, arXiv 2603.18489; from its abstract, its code is not published)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.settings import at_least
from cache.vicinity import window
from dlm.engine.canvas import Canvas
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.step import State, StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class Entropy(Policy):
    """Everything is recomputed at the first step of a block, and after a step that committed a token of high entropy;
    otherwise the block's neighbourhood and what was committed lately.

    The window, the number of recent steps and the clock over committed tokens follow the abstract. The paper's
    threshold is not published; ours is the largest tried at which the packaged model answers a task that every cache
    with a fixed clock fails as without a cache (docs/caches.md).

    Attributes:
        threshold: nats above which a committed token calls for a refresh; None: entropy is not last.
        recent: steps for which a committed position is still recomputed.
        before, after: as in :class:`cache.Vicinity`.
        every_tokens: committed tokens after which everything is recomputed; None: not for their sake. Counting tokens
            instead of steps makes the refreshes independent of how many steps they took.

    Raises:
        SettingsError: a negative threshold or width, ``recent`` or ``every_tokens`` below 1.
    """

    threshold: float | None = 0.3
    recent: int = 2
    before: int | None = 0
    after: int | None = 0
    every_tokens: int | None = None

    def __post_init__(self) -> None:
        at_least(0, before=self.before, after=self.after)
        at_least(1, recent=self.recent, every_tokens=self.every_tokens)
        if self.threshold is not None and not self.threshold >= 0:
            raise SettingsError(f"threshold is an entropy in nats and must be 0 or more, got {self.threshold}")

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"entropy"}) if self.threshold is not None else frozenset()

    @property
    def refreshes_with_blocks(self) -> bool:  # type: ignore[override]
        return self.threshold is None and self.every_tokens is None

    def init(self, canvas: Canvas) -> Int[Tensor, " B"]:
        return torch.zeros_like(canvas.start)

    def refreshes(self, row: Row) -> bool:
        return row.block_steps == 0 or bool(row.cache.get("refresh", True))

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live & (window(context, self.before, self.after) | context.recent(self.recent))

    def remember(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[State, dict[str, Tensor]]:
        unsure = torch.zeros_like(chosen[:, 0]) if chosen.shape[1] else chosen.any(dim=1)
        if self.threshold is not None:
            assert view.proposal.entropy is not None
            unsure = (chosen & (view.proposal.entropy > self.threshold)).any(dim=1)
        count = state + chosen.sum(dim=1)
        due = unsure if self.every_tokens is None else unsure | (count >= self.every_tokens)
        return count.masked_fill(due, 0), {"refresh": due.long()}
