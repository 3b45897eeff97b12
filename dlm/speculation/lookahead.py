"""Look-ahead branches: several continuations of a row in one forward, of which the surest is kept.

LoPA (arXiv 2512.16229, as described in its abstract and in specs/samplers.md S22; the branch score over what is left
of the block and the tie rule are ours). Branch 0 is the row as it stands. Branch j has one more token: the j-th surest
of the proposals that the last step did not commit. All are fed together; the branch whose remaining masks are surest on
average becomes the row, and its logits serve the step's ordinary selection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.batch import Batch
from dlm.engine.branches import Branches
from dlm.engine.canvas import Canvas
from dlm.engine.forward import Forward, Hidden
from dlm.engine.plan import ForwardPlan
from dlm.engine.proposal import Proposal
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError


class Candidates(NamedTuple):
    """One more token for each branch; the position is the canvas's trash column where there is none.

    Attributes:
        position, token: where and what. ``[B, K]``
        prob: how sure the model was of it. ``[B, K]``
    """

    position: Int[Tensor, "B K"]
    token: Int[Tensor, "B K"]
    prob: Float[Tensor, "B K"]


@dataclass(frozen=True)
class Lookahead:
    """``branches`` continuations beside the row itself.

    Raises:
        SettingsError: fewer than one branch.
    """

    branches: int = 3

    def __post_init__(self) -> None:
        if self.branches < 1:
            raise SettingsError(f"branches must be at least 1, got {self.branches}; without branches use threshold")

    def next(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> Candidates:
        """The surest proposals of the block that this step leaves open."""
        open_ = view.eligible & ~chosen
        prob = view.proposal.prob.masked_fill(~open_, -torch.inf)
        missing = max(0, self.branches - prob.shape[1])
        prob = torch.nn.functional.pad(prob, (0, missing), value=-torch.inf)
        best = prob.sort(dim=1, descending=True, stable=True)
        order, real = best.indices[:, : self.branches], best.values[:, : self.branches] > -torch.inf
        inside = order.clamp_max(view.positions.shape[1] - 1)
        position = view.positions.gather(1, inside).masked_fill(~real, view.canvas.scratch)
        return Candidates(position, view.proposal.token.gather(1, inside), best.values[:, : self.branches])


def branch(
    run: Forward,
    batch: Batch,
    blocks: BlockState,
    plan: ForwardPlan,
    where: tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]],
    candidates: Candidates,
) -> tuple[Proposal, Bool[Tensor, "B N"]]:
    """Feed every branch and keep the best of each row. A row that a cache recomputes whole has no branches then.

    Args:
        run: the forward.
        batch, clock: the rows as they stand.
        plan: what the cache has planned for them.
        where: the positions to propose for, and which of them may be committed.
        candidates: what the branches add.

    Returns:
        The proposals of the kept branches, with the token that made a branch in its place, and which positions those
        tokens stand at: they must be committed with this step.
    """
    (positions, eligible), canvas, (rows, k) = where, batch.canvas, candidates.position.shape
    if plan.refreshed and plan.feeds[-1].memory is not None:
        refreshed = torch.tensor([row in plan.refreshed for row in range(rows)], device=positions.device)[:, None]
        candidates = candidates._replace(position=candidates.position.masked_fill(refreshed, canvas.scratch))
    wanted = canvas.masked & blocks.block
    versions = Branches.alike(canvas, _spread(canvas, candidates), blocks, wanted, k + 1)
    owner, many = versions.owner, versions.canvas
    feeds = batch.cache.spread(versions).feeds
    run.watch.mark("forward")
    hidden = Hidden(feeds, tuple(run.feed(many, feed)[0] for feed in feeds), many)
    run.watch.mark("sampler")
    proposal = run.propose(many, versions.blocks, hidden, positions[owner], eligible[owner], {})

    extra = torch.cat(
        [torch.full_like(candidates.position[:, :1], canvas.scratch), candidates.position], dim=1
    ).flatten()
    own = (positions[owner] == extra[:, None]) & eligible[owner]
    left = eligible[owner] & ~own
    mean = (proposal.prob.double() * left).sum(dim=1) / left.sum(dim=1)
    exists = torch.arange(rows * (k + 1), device=extra.device) % (k + 1) == 0
    mean = mean.masked_fill(~(own.any(dim=1) & left.any(dim=1) | exists), -torch.inf).nan_to_num(nan=-torch.inf)
    best = mean.view(rows, k + 1).argmax(dim=1)
    kept = torch.arange(rows, device=best.device) * (k + 1) + best
    proposal, forced = proposal.gather(kept), own[kept]
    which = (best - 1).clamp_min(0)[:, None]
    token = torch.where(forced, candidates.token.gather(1, which), proposal.token)
    prob = torch.where(forced, candidates.prob.gather(1, which), proposal.prob)
    batch.cache.accept(kept)
    return replace(proposal, token=token, prob=prob), forced


def _spread(canvas: Canvas, candidates: Candidates) -> Int[Tensor, "V W"]:
    """The tokens of every branch; the first of each row is the row as it stands."""
    rows, k = candidates.position.shape
    first = torch.full_like(candidates.position[:, :1], canvas.scratch)
    position = torch.cat([first, candidates.position], dim=1).view(rows * (k + 1), 1)
    token = torch.cat([torch.zeros_like(first), candidates.token], dim=1).view(rows * (k + 1), 1)
    return canvas.tokens.repeat_interleave(k + 1, dim=0).scatter(1, position, token)
