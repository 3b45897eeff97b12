"""Constant work per step: dKV-Cache-Greedy (arXiv 2505.15781) and ReCAP's full and local steps (arXiv 2505.19089)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from cache.settings import at_least, every_steps
from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.row import Row
from dlm.engine.step import State, StepView, rank


@dataclass(frozen=True)
class DKVGreedy(Policy):
    """dKV-Cache-Greedy: only what was committed at the last step, what will be committed at this one, and a few masks
    near it are recomputed. It must know the order beforehand: a random one.

    Attributes:
        interval: steps of a block between refreshes (the paper: 2).
        window: masks near each position that is about to be committed, nearest first, left before right, that are
            recomputed too (the paper: 4).

    Raises:
        SettingsError: ``interval`` below 1, a negative window.
    """

    interval: int = 2
    window: int = 4
    block_always_fresh = False
    asks_ahead = True

    def __post_init__(self) -> None:
        at_least(1, interval=self.interval)
        at_least(0, window=self.window)

    def refreshes(self, row: Row) -> bool:
        return every_steps(row.block_steps, self.interval)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        query = context.query
        assert query.upcoming is not None
        return near(query.canvas, query.upcoming, query.canvas.masked & context.live, self.window, query.most_upcoming)

    def candidates(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"] | None:
        return context.query.upcoming


def near(
    canvas: Canvas, chosen: Bool[Tensor, "B W"], masks: Bool[Tensor, "B W"], count: int, most: int
) -> Bool[Tensor, "B W"]:
    """What is chosen, at most ``most`` positions of a row, and for each in turn, from the left, the ``count`` nearest
    masks that are not taken yet; of two at one distance the left one first."""
    columns, free, far = canvas.columns, masks & ~chosen, canvas.number(torch.inf, torch.float32)
    centres = pack_positions(chosen, columns, most)[:, :, None]
    # A quarter of a step to the right, so that of two at one distance the left one is nearer. Fillers are far away.
    distances = torch.where(centres < canvas.scratch, (columns + 0.25 - centres).abs(), far)
    # A window takes what windows before it have left, so the turns cannot be taken together.
    for distance in distances.unbind(dim=1):
        nearest, places = torch.where(free, distance, far).topk(min(count, columns.shape[0]), dim=1, largest=False)
        free.scatter_(1, places, (nearest == far) & free.gather(1, places))
    return chosen | (masks & ~free)


@dataclass(frozen=True)
class Recap(Policy):
    """ReCAP: groups of steps, a full one and then local ones that recompute a few positions only.

    The paper is about images; for text its local set is ours: the surest masks of the block at the last full step.
    UNVERIFIED on language models. A local step can only commit what is in its set.

    Attributes:
        local_steps: local steps after each full one.
        positions: masks in the local set.

    Raises:
        SettingsError: fewer than one local step or position.
    """

    local_steps: int = 3
    positions: int = 8
    block_always_fresh = False

    def __post_init__(self) -> None:
        at_least(1, local_steps=self.local_steps, positions=self.positions)

    def init(self, canvas: Canvas) -> Float[Tensor, "B W"]:
        return torch.zeros_like(canvas.tokens, dtype=torch.float32)

    def refreshes(self, row: Row) -> bool:
        return every_steps(row.block_steps, self.local_steps + 1)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return self.candidates(context, state)

    def candidates(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        masks = context.query.eligible
        return masks & (rank(state.masked_fill(~masks, -torch.inf)) < self.positions)

    def remember(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[State, dict[str, Tensor]]:
        seen = view.here(view.blocks.block)
        known = view.on_canvas(view.proposal.prob.float().masked_fill(~seen, 0.0))
        return torch.where(view.on_canvas(seen, False), known, state), {}
