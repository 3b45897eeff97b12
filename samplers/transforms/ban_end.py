"""No end of text."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import LogitRows, LogitTransform
from dlm.engine.proposal import BANNED


@dataclass(frozen=True)
class BanEnd(LogitTransform):
    """The end-of-text id is never proposed and has no probability (LLaDA's ``logits_eos_inf``). The end of a turn,
    where a model has one, stays possible."""

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: None) -> tuple[Float[Tensor, "R V"], None]:
        logits[:, at.canvas.end_ids[0]] = BANNED
        return logits, state
