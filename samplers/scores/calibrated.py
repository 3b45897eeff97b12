"""PC-Sampler's score: earlier positions and rarer tokens first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dlm.engine.interfaces import Score
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class Calibrated(Score):
    """exp(-``decay`` r) min(-p ln(f + 1e-9), ``cap``) with r the offset in the block, p the probability of the proposed
    token and f its frequency in a corpus (PC-Sampler, arXiv 2508.13021).

    ``frequencies``: a safetensors file with one tensor ``frequency``, a share per token id (``scripts/frequencies.py``
    makes one). None: every token equally frequent, which leaves the preference for early positions.

    Raises:
        SettingsError: negative decay, cap not above 0, a file that is no such table for this model.
    """

    decay: float = 0.25
    cap: float = 10.0
    frequencies: str | None = None
    table: Float[Tensor, " V"] | None = field(default=None, compare=False, repr=False)

    non_negative = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < float("inf"):
            raise SettingsError(f"decay must be 0 (no preference for early positions) or more, got {self.decay}")
        if not self.cap > 0:
            raise SettingsError(f"cap must be above 0, got {self.cap}")

    def bind(self, tokenizer: Any, vocab_size: int) -> Calibrated:
        if self.frequencies is None or self.table is not None:
            return self
        path = Path(self.frequencies)
        if not path.is_file():
            raise SettingsError(f"frequencies={path} does not exist; make one with scripts/frequencies.py, or use null")
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            table = load_file(path).get("frequency")
        except SafetensorError as error:
            raise SettingsError(f"frequencies={path} is no safetensors file: {error}") from error
        if table is None or table.dim() != 1 or len(table) < vocab_size:
            raise SettingsError(f"frequencies={path} holds no tensor 'frequency' of at least {vocab_size} entries")
        return replace(self, table=table.double())

    def step(self, view: StepView, state: None) -> tuple[Float[Tensor, "B N"], None]:
        prob = view.proposal.prob
        if self.frequencies is not None and self.table is None:
            raise SettingsError(f"frequencies={self.frequencies} was not read: decode through dlm.generate")
        if self.table is None:
            rarity = torch.full_like(prob, 1.0)
        else:
            table = self.table.to(device=prob.device, dtype=prob.dtype)
            rarity = -torch.log(table[view.proposal.token.clamp_max(len(table) - 1)] + 1e-9)
        offset = (view.positions - view.blocks.block_start[:, None]).clamp_min(0)
        weight = torch.exp(-self.decay * offset.to(prob.dtype))
        return weight * (prob * rarity).clamp(min=0.0, max=self.cap), state
