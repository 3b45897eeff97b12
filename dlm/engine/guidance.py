"""What classifier-free guidance is from: the rows of the second, unguided stream."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from dlm.engine.canvas import Canvas
from dlm.engine.plan import Feed
from dlm.engine.proposal import wide
from dlm.engine.step import rank
from dlm.models.backbone import Backbone


def without_prompt(canvas: Canvas, feed: Feed) -> Int[Tensor, "R T"]:
    """What is fed, with masks for all that was given (LLaDA, arXiv 2502.09992)."""
    writable = canvas.writable if feed.slots is None else canvas.writable[feed.slots]
    where = feed.positions
    if where is None:
        where = canvas.columns[: feed.tokens.shape[1]].expand_as(feed.tokens)
    given = ~writable.gather(1, where)
    return feed.tokens.masked_fill(given, canvas.mask_id)


def without_doubtful(
    canvas: Canvas, feed: Feed, sure: Float[Tensor, "R T"], share: float, shift: int
) -> Int[Tensor, "R T"]:
    """Whole rows, with masks for a share of the committed tokens, at least one: those at whose positions the model is
    least sure of anything (A-CFG, arXiv 2505.20199). What was given stays; where nothing is committed so does the row.

    After the paper's abstract and a public re-implementation: its authors' repository has no code. That one takes the
    largest probability at a position, not that of the token which stands there, and rounds down; so does this.

    Args:
        canvas, feed: what is fed; every column, from the first on.
        sure: the largest probability in each row of the model. In any monotone scale.
        share: how many of them.
        shift: as in :class:`dlm.models.backbone.ModelDescription`.
    """
    width = feed.tokens.shape[1]
    written = (canvas.writable & ~canvas.masked & canvas.live)[:, :width]
    written = written if feed.slots is None else written[feed.slots]
    sure = pad(sure, (shift, 0))[:, :width].masked_fill(~written, torch.inf)
    many = (written.sum(dim=1, keepdim=True).double() * share).long().clamp_min(1)
    return feed.tokens.masked_fill(written & (rank(-sure, canvas.columns) < many), canvas.mask_id)


def sureness(model: Backbone, hidden: Float[Tensor, "R T D"], chunk: int) -> Float[Tensor, "R T"]:
    """The logarithm of the largest probability in each row, ``chunk`` rows of logits at a time."""
    logits = (wide(model.head(rows)) for rows in hidden.flatten(0, 1).split(chunk))
    return torch.cat([x.amax(dim=1) - x.logsumexp(dim=1) for x in logits]).view(hidden.shape[:2])
