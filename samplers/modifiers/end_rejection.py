"""EOSER: end tokens are distrusted early and trusted late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import ScoreModifier
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class EndRejection(ScoreModifier):
    """Multiply the score of a position whose proposal is the end-of-text id with a factor that rises from ``low`` to
    ``high`` (EOSER, arXiv 2509.23924). Other end ids are left alone.

    ``schedule="linear"``: low + (high - low) j / (steps - 1) at step j; ``"ascending"``, for the step sizes of ASS:
    low + (high - low) (2^(j+1) - 1) / 2^steps. ``steps=None``: what ``tokens_per_step`` positions a step take (linear),
    or log2 of the positions (ascending). ``compat="reference"`` counts j anew in every block, as the published
    loop does, which then never reaches ``high``; clean counts over the row.

    Raises:
        SettingsError: factors outside [0, 1], low above high, steps or tokens_per_step below 1, an unknown schedule or
            compat.
    """

    low: float = 0.4
    high: float = 1.0
    steps: int | None = None
    schedule: Literal["linear", "ascending"] = "linear"
    compat: Literal["clean", "reference"] = "clean"
    tokens_per_step: int = 1

    # Scores are scaled, so they must not be negative (see dlm.engine.sampler).
    scales = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise SettingsError(f"low and high must satisfy 0 <= low <= high <= 1, got {self.low} and {self.high}")
        if self.steps is not None and self.steps < 1:
            raise SettingsError(f"steps must be at least 1, got {self.steps}")
        if self.tokens_per_step < 1:
            raise SettingsError(f"tokens_per_step must be at least 1, got {self.tokens_per_step}")
        if self.schedule not in ("linear", "ascending"):
            raise SettingsError(f"schedule must be 'linear' or 'ascending', got {self.schedule!r}")
        if self.compat not in ("clean", "reference"):
            raise SettingsError(f"compat must be 'clean' or 'reference', got {self.compat!r}")

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        assert view.scores is not None
        blocks, canvas = view.blocks, view.canvas
        region = canvas.region.double()
        j = (blocks.block_step if self.compat == "reference" else blocks.step).double()
        if self.schedule == "linear":
            per_step = torch.ceil(region / self.tokens_per_step)
            steps = per_step if self.steps is None else torch.full_like(region, self.steps)
            share = torch.where(steps > 1, j / (steps - 1).clamp_min(1.0), 1.0)
        else:
            steps = region.log2().floor() if self.steps is None else torch.full_like(region, self.steps)
            share = (2.0 ** (j + 1) - 1) / 2.0**steps
        factor = self.low + (self.high - self.low) * share.clamp_max(1.0)
        ends = view.proposal.token == canvas.end_ids[0]
        return torch.where(ends, view.scores * factor[:, None].to(view.scores.dtype), view.scores), state
