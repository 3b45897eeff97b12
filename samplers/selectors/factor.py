"""Fast-dLLM's factor rule: the more positions at once, the surer each must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError


@dataclass(frozen=True)
class Factor(Selector):
    """Commit the longest prefix of the sorted confidences with c_(n) >= 1 - factor / (n + 1) for every n in it.

    The first position is always committed (Fast-dLLM, arXiv 2505.22618, theorem 1: (n + 1) eps <= 1).

    ``compat="reference"`` adds the slip of the published loop: when only the last of all eligible positions fails, it
    is committed too. ``compat="d2cache"`` is the opposite slip of the d2Cache repository: strict comparison from the
    first position on, and when no position fails the last one is left out. ``minimum`` positions are committed whatever
    the rule says, best first (``num_transfer_tokens`` of d2Cache's decoders).

    Raises:
        SettingsError: a negative factor, an unknown ``compat``, or a minimum below 1.
    """

    factor: float = 1.0
    compat: Literal["clean", "reference", "d2cache"] = "clean"
    minimum: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.factor < float("inf"):
            raise SettingsError(f"factor must be 0 (one token per step) or more, got {self.factor}")
        if self.compat not in ("clean", "reference", "d2cache"):
            raise SettingsError(f"compat must be 'clean', 'reference' or 'd2cache', got {self.compat!r}")
        if self.minimum < 1:
            raise SettingsError(f"minimum must be at least 1, got {self.minimum}")

    @property
    def uses_budget(self) -> bool:
        return False

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        places = rank(view.scores)
        ordered = torch.empty_like(view.scores).scatter_(1, places, view.scores)
        n = torch.arange(1, ordered.shape[1] + 1, device=ordered.device, dtype=ordered.dtype)
        count = view.eligible.sum(dim=1)
        if self.compat == "d2cache":
            passes = (n + 1) * (1 - ordered) < self.factor
        else:
            passes = ordered >= 1 - self.factor / (n + 1)
            passes[:, 0] = True
        accepted = torch.cumprod((passes & (n <= count[:, None])).int(), dim=1).sum(dim=1)
        if self.compat == "reference":
            accepted = torch.where(accepted == count - 1, count, accepted)
        elif self.compat == "d2cache":
            accepted = torch.where(accepted == count, count - 1, accepted)
        accepted = accepted.clamp_min(self.minimum)
        return places < accepted[:, None], state
