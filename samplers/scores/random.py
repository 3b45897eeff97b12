"""No confidence at all: a random order."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import Score
from dlm.engine.noise import Purpose
from dlm.engine.step import StepView


@dataclass(frozen=True)
class Random(Score):
    """A fresh uniform in (0, 1) per position and step (LLaDA's ``remasking="random"``); tokens stay the proposals."""

    non_negative = True
    order_known = True

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        return view.uniform(Purpose.SCORE), state
