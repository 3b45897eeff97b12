"""The longest prefix of the ranking that a bound allows: the more positions at once, the surer they must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.settings import at_least


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

    always_commits = timeless = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.factor < float("inf"):
            raise SettingsError(f"factor must be 0 (one token per step) or more, got {self.factor}")
        at_least(1, minimum=self.minimum)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        places, ordered, n = _ranked(view)
        # What is not eligible has the score -inf, comes last, and passes nowhere.
        if self.compat == "d2cache":
            passes = (n + 1) * (1 - ordered) < self.factor
        else:
            passes = ordered >= 1 - self.factor / (n + 1)
            passes[:, 0] = True
        accepted = passes.cumprod(dim=1).sum(dim=1)
        if self.compat != "clean":
            count = view.eligible.sum(dim=1)
            slipped, to = (count - 1, count) if self.compat == "reference" else (count, count - 1)
            accepted = torch.where(accepted == slipped, to, accepted)
        accepted = accepted.clamp_min(self.minimum)
        return places < accepted[:, None], state


@dataclass(frozen=True)
class Frechet(Selector):
    """Commit the n surest positions, n the largest with L_n - U_n > ``margin`` (Fast-dLLM++, arXiv 2606.02955).

    L_n = max(0, sum of the n largest confidences - (n - 1)) bounds the joint probability of the n tokens from below
    (Fréchet), U_n = 1 - c_(n) that of any other choice from above. At least one position is committed.

    Raises:
        SettingsError: a margin outside [-1, 1).
    """

    margin: float = 0.25

    timeless = True

    def __post_init__(self) -> None:
        if not -1.0 <= self.margin < 1.0:
            raise SettingsError(f"margin must be in [-1, 1), got {self.margin}; lower is faster, 0.25 is the paper's")

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        places, ordered, n = _ranked(view)
        joint = (ordered.cumsum(dim=1) - (n - 1)).clamp_min(0.0)
        passes = joint - (1.0 - ordered) > self.margin  # never where the score is -inf
        # The difference never rises with n, so that the last rank to pass is the number of ranks that do.
        return places < passes.sum(dim=1, keepdim=True), state


@dataclass(frozen=True)
class EntropyBound(Selector):
    """Commit the longest prefix of the ranking with (sum of entropies) - (largest entropy) <= ``gamma`` nats
    (EB-Sampler, arXiv 2505.24857). That difference bounds what is lost by treating the tokens as independent; it is 0
    for one position and never falls. The ranking is the sampler's score.

    ``compat="d2cache"`` is that repository's bound, which subtracts the position's own entropy instead of the largest;
    ``compat="sdar"`` subtracts nothing and compares strictly (the rule of SDAR's engine, arXiv 2510.06303).
    ``minimum`` positions are committed in any case, best first.

    Raises:
        SettingsError: a negative gamma, an unknown compat, a minimum below 1.
    """

    gamma: float = 0.1
    compat: Literal["clean", "d2cache", "sdar"] = "clean"
    minimum: int = 1

    always_commits = timeless = True
    needs = frozenset[Statistic]({"entropy"})

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < float("inf"):
            raise SettingsError(f"gamma must be 0 (one position per step) or more nats, got {self.gamma}")
        at_least(1, minimum=self.minimum)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        assert view.proposal.entropy is not None
        places = view.rank(view.scores)
        entropy = torch.empty_like(view.proposal.entropy).scatter_(1, places, view.proposal.entropy).clamp_min_(0.0)
        if self.compat == "sdar":
            within = entropy.cumsum(dim=1) < self.gamma
        else:
            largest = entropy if self.compat == "d2cache" else entropy.cummax(dim=1).values
            within = entropy.cumsum(dim=1) - largest <= self.gamma
        count = within.cumprod(dim=1).sum(dim=1, keepdim=True).clamp_min(self.minimum)
        return places < count, state


def _ranked(view: StepView) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, " N"]]:
    """Each position's rank, the scores from the best to the worst, and 1, 2, 3, ..."""
    assert view.scores is not None
    scores, places = view.scores, view.rank(view.scores)
    n = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    return places, torch.empty_like(scores).scatter_(1, places, scores), n
