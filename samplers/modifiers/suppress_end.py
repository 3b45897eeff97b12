"""End tokens wait until nothing else is left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import ScoreModifier
from dlm.engine.step import StepView

# Below every score of a position that may go first, above -inf, which means "not eligible".
_LAST = -1e30


@dataclass(frozen=True)
class SuppressEnd(ScoreModifier):
    """A position whose proposal is an end token is committed after all others (what LLaDA's ``confidence_eos_eot_inf``
    sets out to do; what its code does is ``Proposer(end_confidence="aliased")``)."""

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.scores is not None
        ends = torch.zeros_like(view.eligible)
        for end_id in view.canvas.end_ids:
            ends |= view.proposal.token == end_id
        return view.scores.masked_fill(ends, _LAST), state
