"""The forward of several branches of every row: as rows of their own, or one behind the other in one row under a mask
that keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.forward import Forward
from dlm.engine.plan import Branches, BranchPlan, Feed, FeedMemory, PackedBranches


def branch_states(
    run: Forward, branches: Branches, plan: BranchPlan, packed: bool
) -> tuple[tuple[Float[Tensor, "R T D"], ...], ...]:
    """Hidden states of every call of the plan, one set each, or two with guidance.

    Args:
        run: the model.
        branches: what is fed.
        plan: how.
        packed: whether the branches of a row lie one behind the other, over one copy of its stored keys.
    """
    sets = []
    for number, feed in enumerate(plan.feeds):
        whole = number > 0 or not plan.slots
        run.watch.mark("refresh" if whole else "forward")
        if packed and not whole:
            order = packed_order([branches.counts[slot] for slot in plan.slots], feed.tokens.device)
            sets.append(along_sequence(run, branches.canvas, feed, order))
        else:
            sets.append(run.feed(branches.canvas, feed)[0])
    run.watch.mark("sampler")
    return tuple(sets)


def packed_order(counts: Sequence[int], device: torch.device) -> PackedBranches:
    """How the branches of rows, so many of each, lie one behind the other."""
    each, first, grid, there, back = max(counts), 0, [], [], []
    for row, count in enumerate(counts):
        grid.append([first + place if place < count else first for place in range(each)])
        there.append([place < count for place in range(each)])
        back += [row * each + place for place in range(count)]
        first += count
    return PackedBranches(*(torch.tensor(part, device=device) for part in (grid, there, back)))


def along_sequence(run: Forward, many: Canvas, feed: Feed, order: PackedBranches) -> tuple[Float[Tensor, "R T D"], ...]:
    """Hidden states of a feed of branches, computed with those of a row one behind the other.

    The stored keys of a row are there once, however many branches look at them. Attention takes a mask of ``E * T`` by
    ``S + E * T`` for E branches of T positions over S stored ones.
    """
    (rows, length), (own, each) = feed.tokens.shape, order.grid.shape
    positions = feed.positions if feed.positions is not None else many.columns[:length].expand(rows, length)
    memory: FeedMemory | None = None
    if feed.memory is None:
        mask = _apart(feed, order)
    else:
        memory, mask = feed.memory.along_sequence(order, feed.valid)
    one = Feed(
        tokens=feed.tokens[order.grid].flatten(1),
        positions=positions[order.grid].flatten(1),
        valid=mask,
        memory=memory,
        stored=None if feed.stored is None else mask.shape[-1],
        slots=order.grid[:, 0] if feed.slots is None else feed.slots[order.grid[:, 0]],
    )
    hidden, _ = run.feed(many, one)
    return tuple(states.reshape(own * each, length, -1)[order.back] for states in hidden)


def _apart(feed: Feed, order: PackedBranches) -> Bool[Tensor, "B Q K"]:
    """Nothing is stored: every branch sees itself alone."""
    (rows, length), (own, each) = feed.tokens.shape, order.grid.shape
    valid = feed.valid if feed.valid is not None else torch.ones_like(feed.tokens, dtype=torch.bool)
    within = valid if valid.dim() == 3 else valid[:, None].expand(rows, length, length)
    mask = torch.zeros(own, each, length, each, length, dtype=torch.bool, device=within.device)
    for place in range(each):
        mask[:, place, :, place] = within[order.grid[:, place]]
    return mask.view(own, each * length, each * length)
