"""Drafts along the sequence: one row holds all its versions, and a mask keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.forward import Forward
from dlm.engine.plan import Feed, Memory, PackedBranches


def beside(counts: Sequence[int], device: torch.device) -> PackedBranches:
    """How the versions of rows, so many of each, lie one behind the other."""
    each, first, grid, there, back = max(counts), 0, [], [], []
    for row, count in enumerate(counts):
        grid.append([first + place if place < count else first for place in range(each)])
        there.append([place < count for place in range(each)])
        back += [row * each + place for place in range(count)]
        first += count
    return PackedBranches(*(torch.tensor(part, device=device) for part in (grid, there, back)))


def along_sequence(run: Forward, many: Canvas, feed: Feed, order: PackedBranches) -> tuple[Float[Tensor, "R T D"], ...]:
    """Hidden states of a feed of versions, computed with those of a row one behind the other.

    The stored keys of a row are there once, however many versions look at them. Attention takes a mask of ``E * T`` by
    ``S + E * T`` for E versions of T positions over S stored ones.
    """
    (rows, length), (own, each) = feed.tokens.shape, order.grid.shape
    positions = feed.positions if feed.positions is not None else many.columns[:length].expand(rows, length)
    memory: Memory | None = None
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
    """Nothing is stored: every version sees itself alone."""
    (rows, length), (own, each) = feed.tokens.shape, order.grid.shape
    valid = feed.valid if feed.valid is not None else torch.ones_like(feed.tokens, dtype=torch.bool)
    within = valid if valid.dim() == 3 else valid[:, None].expand(rows, length, length)
    mask = torch.zeros(own, each, length, each, length, dtype=torch.bool, device=within.device)
    for place in range(each):
        mask[:, place, :, place] = within[order.grid[:, place]]
    return mask.view(own, each * length, each * length)
