"""Ties broken at random, from the row's own noise: equal tokens, and equally sure places.

The decoder by itself takes the lowest id and the lower position. The closed forms of greedy decoding speak of a uniform
choice among equals, which these two parts make. The noise is addressed by (row key, step, position, token), so a row
chooses alike in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import LogitTransform, ScoreModifier
from dlm.engine.noise import Purpose, uniform
from dlm.engine.step import LogitRows, StepView

TIED = 1e-12  # logits this close are equal
NUDGE = 1e-10  # what the winner gets on top: no confidence changes by more
GRID = 2.0**-26  # scores are compared as multiples of this


@dataclass(frozen=True)
class TokenTies(LogitTransform):
    """Lift one of the equal best logits of each row by a hair, each with the same probability. Needs float64 logits."""

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: None) -> tuple[Float[Tensor, "R V"], None]:
        vocabulary = logits.shape[1]
        address = at.position[:, None] * vocabulary + torch.arange(vocabulary, device=logits.device)
        noise = uniform(at.canvas.key[at.row], at.blocks.step[at.row], Purpose.TOKEN, address)
        tied = logits >= logits.amax(dim=1, keepdim=True) - TIED
        winner = noise.masked_fill(~tied, -1.0).argmax(dim=1, keepdim=True)
        return logits.scatter_add(1, winner, torch.full_like(noise[:, :1], NUDGE, dtype=logits.dtype)), state


@dataclass(frozen=True)
class PositionTies(ScoreModifier):
    """Put equally sure places into random order. Scores lose what is finer than 2^-26."""

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.scores is not None
        rounded = (view.scores / GRID).round() * GRID
        return rounded + view.uniform(Purpose.WITHOUT_REPLACEMENT).to(rounded.dtype) * (GRID / 2), state
