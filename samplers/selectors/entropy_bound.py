"""EB-Sampler: as many positions as their joint uncertainty allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError


@dataclass(frozen=True)
class EntropyBound(Selector):
    """Commit the longest prefix of the ranking with (sum of entropies) - (largest entropy) <= ``gamma`` nats
    (EB-Sampler, arXiv 2505.24857). That difference bounds what is lost by treating the tokens as independent; it is 0
    for one position and never falls. The ranking is the sampler's score.

    ``compat="d2cache"`` is that repository's bound, which subtracts the position's own entropy instead of the largest.
    ``minimum`` positions are committed in any case, best first.

    Raises:
        SettingsError: a negative gamma, an unknown compat, a minimum below 1.
    """

    gamma: float = 0.1
    compat: Literal["clean", "d2cache"] = "clean"
    minimum: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < float("inf"):
            raise SettingsError(f"gamma must be 0 (one position per step) or more nats, got {self.gamma}")
        if self.compat not in ("clean", "d2cache"):
            raise SettingsError(f"compat must be 'clean' or 'd2cache', got {self.compat!r}")
        if self.minimum < 1:
            raise SettingsError(f"minimum must be at least 1, got {self.minimum}")

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"entropy"})

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        assert view.proposal.entropy is not None
        places = rank(view.scores)
        entropy = torch.empty_like(view.proposal.entropy).scatter_(1, places, view.proposal.entropy)
        entropy = entropy.clamp_min(0.0)
        largest = entropy if self.compat == "d2cache" else entropy.cummax(dim=1).values
        within = entropy.cumsum(dim=1) - largest <= self.gamma
        count = torch.cumprod(within.int(), dim=1).sum(dim=1, keepdim=True).clamp_min(self.minimum)
        return places < count, state
