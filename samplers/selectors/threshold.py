"""Everything the model is sure enough of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.settings import at_least, within


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

    timeless = True

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.01:
            raise SettingsError(
                f"threshold must be above 0 and at most 1.01 (a probability; 1.01 commits one token per step),"
                f" got {self.threshold}"
            )
        at_least(1, minimum=self.minimum)

    @property
    def uses_budget(self) -> bool:
        return self.capped

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        chosen = view.scores >= self.threshold
        if self.compat == "dinfer":
            chosen = chosen | (view.scores >= view.scores.amax(dim=1, keepdim=True) - 1e-5)
        if self.minimum > 1:
            chosen = chosen | (view.rank(view.scores) < self.minimum)
        if self.capped:
            assert view.budget is not None
            chosen = chosen & (view.rank(view.scores) < view.budget[:, None])
        return chosen, state


@dataclass(frozen=True)
class EntropyThreshold(Selector):
    """Commit every position with entropy <= ``threshold`` nats, at least the best one (the decoder of dParallel,
    arXiv 2509.26488). ``strict``: below it, as in dParallel's Dream code.

    Raises:
        SettingsError: a negative threshold.
    """

    threshold: float = 0.5
    strict: bool = False

    timeless = True
    needs = frozenset[Statistic]({"entropy"})

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < float("inf"):
            raise SettingsError(f"threshold is an entropy in nats, 0 or more, got {self.threshold}")

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        entropy = view.proposal.entropy
        assert entropy is not None
        return entropy < self.threshold if self.strict else entropy <= self.threshold, state


@dataclass(frozen=True)
class LocalLeap(Selector):
    """Anchors are the positions with score >= ``anchor``; within ``radius`` positions of an anchor a score >=
    ``relaxed`` is enough (LocalLeap, arXiv 2510.07081). The best position is always committed. Only positions that
    are still masked can be anchors.

    Raises:
        SettingsError: thresholds outside (0, 1.01], relaxed above anchor, a negative radius.
    """

    anchor: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    timeless = True

    def __post_init__(self) -> None:
        within("(0, 1.01]", anchor=self.anchor, relaxed=self.relaxed)
        if self.relaxed > self.anchor:
            raise SettingsError(f"relaxed={self.relaxed} must not exceed anchor={self.anchor}")
        at_least(0, radius=self.radius)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        anchors = view.scores >= self.anchor
        on_canvas = view.marks(anchors).float()[:, None]
        radius = min(self.radius, on_canvas.shape[2])
        zone = torch.nn.functional.max_pool1d(on_canvas, 2 * radius + 1, stride=1, padding=radius)
        near = zone[:, 0].gather(1, view.positions) > 0
        return anchors | (near & (view.scores >= self.relaxed)), state
