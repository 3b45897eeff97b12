"""Everything the model is sure enough of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError


@dataclass(frozen=True)
class Threshold(Selector):
    """Commit every position with score >= ``threshold``, at least the best one (Fast-dLLM, arXiv 2505.22618).

    A threshold above 1 commits one position per step. With ``capped`` no more positions than the budget says are
    committed, best first (the Dream port's ``confidence_threshold``). ``minimum`` positions are committed however
    unsure they are, best first (``num_transfer_tokens`` of d2Cache's decoders). ``compat="dinfer"`` also commits
    whatever is within 1e-5 of the best score, as dInfer's decoder does.

    Raises:
        SettingsError: a threshold outside (0, 1.01], a minimum below 1, or an unknown compat.
    """

    threshold: float = 0.9
    capped: bool = False
    minimum: int = 1
    compat: Literal["clean", "dinfer"] = "clean"

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.01:
            raise SettingsError(
                f"threshold must be above 0 and at most 1.01 (a probability; 1.01 commits one token per step),"
                f" got {self.threshold}"
            )
        if self.minimum < 1:
            raise SettingsError(f"minimum must be at least 1, got {self.minimum}")
        if self.compat not in ("clean", "dinfer"):
            raise SettingsError(f"compat must be 'clean' or 'dinfer', got {self.compat!r}")

    @property
    def uses_budget(self) -> bool:
        return self.capped

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        chosen = view.scores >= self.threshold
        if self.compat == "dinfer":
            chosen = chosen | (view.scores >= view.scores.amax(dim=1, keepdim=True) - 1e-5)
        if self.minimum > 1:
            chosen = chosen | (rank(view.scores) < self.minimum)
        if self.capped:
            assert view.budget is not None
            chosen = chosen & (rank(view.scores) < view.budget[:, None])
        return chosen, state
