"""Several versions of every row in one forward: look-ahead branches, drafts."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.canvas import Canvas
from dlm.plan import Feed, Peek
from dlm.view import Clock


def canvas_of(canvas: Canvas, tokens: Int[Tensor, "R W"], owner: Int[Tensor, " R"]) -> Canvas:
    """A canvas whose rows are versions, with these tokens, of the rows ``owner``."""
    return replace(
        canvas,
        tokens=tokens,
        writable=canvas.writable[owner],
        commit_step=canvas.commit_step[owner],
        commit_confidence=canvas.commit_confidence[owner],
        start=canvas.start[owner],
        end=canvas.end[owner],
        key=canvas.key[owner],
    )


def clock_of(clock: Clock, owner: Int[Tensor, " R"]) -> Clock:
    """The clocks of the rows ``owner``."""
    return Clock(*(getattr(clock, name)[owner] for name in Clock.__annotations__))


def feed_of(feed: Feed, many: Canvas, owner: Int[Tensor, " R"], each: int) -> tuple[Feed, Peek | None]:
    """A feed for ``each`` versions of every row, and the memory that waits to hear which are kept.

    Rows that a cache recomputes whole are fed as they are: their first version stands for all.
    """
    if feed.memory is None:
        tokens, valid = many.tokens[:, : feed.tokens.shape[1]], None if feed.valid is None else feed.valid[owner]
        return replace(feed, tokens=tokens, valid=valid), None
    if feed.stored is None:
        slots = torch.arange(feed.tokens.shape[0], device=owner.device) if feed.slots is None else feed.slots
        return replace(feed, slots=slots * each), None
    assert feed.positions is not None
    positions, reach = feed.positions[owner], feed.stored
    hidden = torch.ones_like(many.writable).scatter(1, positions, False)[:, :reach]
    valid = torch.cat([hidden if feed.valid is None else hidden & feed.valid[owner], positions != many.trash], dim=1)
    peek = feed.memory.peeking(owner)
    tokens = many.tokens.gather(1, positions)
    return Feed(tokens, positions, valid, peek, reach + positions.shape[1]), peek
