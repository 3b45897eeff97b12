"""Early exits: a row commits everything it still has open, from the forward that made it exit."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.batch import Batch
from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.forward import Forward, Seen
from dlm.engine.plan import ForwardPlan
from dlm.engine.step import StepView
from dlm.models.backbone import Backbone


def all_masks_scored(model: Backbone, canvas: Canvas, plan: ForwardPlan) -> Bool[Tensor, " B"]:
    """Rows whose forward showed every open position: what was not fed cannot be committed."""
    if plan.fed is None:
        return torch.ones_like(canvas.start, dtype=torch.bool)
    source = model.source(canvas.columns.expand_as(canvas.tokens))
    return ~(canvas.masked & ~plan.fed.gather(1, source)).any(dim=1)


def commit_rest(
    run: Forward,
    batch: Batch,
    view: StepView,
    chosen: Bool[Tensor, "B N"],
    exiting: Bool[Tensor, " B"],
    seen: Seen,
) -> tuple[StepView, Bool[Tensor, "B M"]]:
    """Commit what the rows that leave have open outside the view; returns the view and the choice with that beside."""
    rows = [row for row in batch.rows if row.exiting and row.open]
    if not rows:
        return view, chosen
    canvas = view.canvas
    left = canvas.masked & exiting[:, None]
    positions = pack_positions(left, canvas.columns, max(row.open for row in rows))
    here = left.gather(1, positions)
    proposal = run.propose(canvas, view.blocks, seen.hidden, positions, here, dict(batch.states))
    canvas.commit(positions, proposal.token, here, view.blocks.step, proposal.prob)
    run.watch.mark("end")
    if positions.is_cuda:
        torch.cuda.synchronize()
    seconds = run.watch.read()
    for row in rows:
        row.open = row.block_open = 0
        row.seconds_step += seconds["forward"] / len(rows)
        row.seconds_sampler += seconds["sampler"] / len(rows)
    assert view.scores is not None
    nothing = torch.full_like(proposal.prob, -torch.inf, dtype=view.scores.dtype)
    rest = view.with_(positions=positions, eligible=here, proposal=proposal, scores=nothing)
    return view.beside([rest]), torch.cat([chosen, here], dim=1)
