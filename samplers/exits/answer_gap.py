"""Prophet and SchED: stop when the answer is certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.calls import Checked
from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import EarlyExit
from dlm.engine.proposal import Statistic
from dlm.engine.step import BlockState, RowSize, StepView
from dlm.errors import SettingsError
from samplers.settings import at_least, encode


@dataclass(frozen=True)
class AnswerRegion(metaclass=Checked):
    """The positions whose certainty decides over an early exit.

    Give one of: ``start`` (offset in the generated region), ``after`` (a text, or token ids: the region begins behind
    its last occurrence on the canvas that has generated positions behind it; a row without one has no region), or
    neither: the whole generated span. ``length`` positions, clipped at the end of the row; None: up to the end.

    Raises:
        SettingsError: both start and after, a negative start, a length below 1, a start outside the canvas.
    """

    start: int | None = None
    after: str | Sequence[int] | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.after is not None and not self.after:
            raise SettingsError("after= is empty: give a text or token ids")
        if self.start is not None and self.after is not None:
            raise SettingsError("an answer region begins at start= or behind after=: give one of them")
        at_least(0, **{"the answer region's start": self.start})
        at_least(1, **{"the answer region's length": self.length})

    def bind(self, tokenizer: Any) -> AnswerRegion:
        """The region with ids in place of a text."""
        if not isinstance(self.after, str):
            return self
        return replace(self, after=tuple(encode(tokenizer, self.after, "answer suffix")))

    def check(self, region: int) -> None:
        """Refuse a start outside a generated region of so many positions."""
        if self.start is not None and self.start >= region:
            raise SettingsError(
                f"the answer region begins at generated position {self.start}, but only {region} positions are"
                " generated: lower its start or raise max_new_tokens"
            )

    def most(self, eligible: int, region: int) -> int:
        """The most positions it can have together with ``eligible`` others of a generated region of ``region``."""
        return region if self.length is None else min(eligible + self.length, region)

    def where(self, canvas: Canvas) -> Bool[Tensor, "B W"]:
        """Its positions in every row."""
        if self == AnswerRegion():
            return canvas.generated
        first = canvas.start if self.start is None else canvas.start + self.start
        if self.after is not None:
            first = self._behind(canvas)
        last = canvas.end if self.length is None else torch.minimum(first + self.length, canvas.end)
        return canvas.inside(first, last)

    def _behind(self, canvas: Canvas) -> Tensor:
        """First position behind the last occurrence of the suffix; the end of the row where it does not occur."""
        if isinstance(self.after, str):
            raise SettingsError(f"answer suffix {self.after!r} needs a tokenizer: give token ids")
        assert self.after is not None
        size, tokens = len(self.after), canvas.tokens
        found = torch.ones_like(canvas.writable)
        for back, token in enumerate(reversed(self.after), start=1):
            found &= tokens.roll(back, dims=1) == token
        # A window that would reach over the left edge is none.
        place = canvas.columns
        found &= (place >= size) & canvas.inside(canvas.start, canvas.end)
        behind = place.expand_as(tokens).masked_fill(~found, -1).amax(dim=1)
        return torch.where(behind >= 0, behind, canvas.end)


@dataclass(frozen=True)
class Stages(metaclass=Checked):
    """Required gap in three stages of the progress (Prophet, arXiv 2508.19982): ``early`` below 0.33, ``mid`` below
    0.67, then ``late``.

    Raises:
        SettingsError: gaps that rise with the progress.
    """

    early: float = 7.5
    mid: float = 5.0
    late: float = 2.5
    cuts: Sequence[float] = (0.33, 0.67)

    def __post_init__(self) -> None:
        if not self.early >= self.mid >= self.late:
            raise SettingsError(f"required gaps must not rise, got {self.early}, {self.mid}, {self.late}")
        if not 0.0 <= self.cuts[0] <= self.cuts[1] <= 1.0:
            raise SettingsError(f"cuts must satisfy 0 <= first <= second <= 1, got {self.cuts}")

    def required(self, progress: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The gap that is needed."""
        gap = torch.full_like(progress, self.late, dtype=torch.float32)
        return gap.masked_fill_(progress < self.cuts[1], self.mid).masked_fill_(progress < self.cuts[0], self.early)


@dataclass(frozen=True)
class Smooth(metaclass=Checked):
    """Required gap that falls smoothly from ``first`` to ``last`` (SchED, arXiv 2512.02892; the default numbers are
    ours, the paper's are UNVERIFIED): ``linear``, ``cosine``, or ``exponential`` with rate ``decay``.

    Raises:
        SettingsError: gaps that rise, an unknown shape, a rate not above 0.
    """

    first: float = 7.5
    last: float = 2.5
    shape: Literal["linear", "cosine", "exponential"] = "cosine"
    decay: float = 4.0

    def __post_init__(self) -> None:
        if not self.first >= self.last:
            raise SettingsError(f"required gaps must not rise, got first={self.first} and last={self.last}")
        if not self.decay > 0:
            raise SettingsError(f"decay must be above 0, got {self.decay}")

    def required(self, progress: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The gap that is needed."""
        progress = progress.clamp(0.0, 1.0)
        if self.shape == "linear":
            share = 1.0 - progress
        elif self.shape == "cosine":
            share = 0.5 * (1.0 + torch.cos(math.pi * progress))
        else:
            floor = math.exp(-self.decay)
            share = (torch.exp(-self.decay * progress) - floor) / (1.0 - floor)
        return self.last + (self.first - self.last) * share


@dataclass(frozen=True)
class AnswerGap(EarlyExit):
    """Commit everything that is left as soon as the mean gap between the two largest raw logits over the answer region
    reaches what the thresholds ask for at this progress (Prophet, SchED). Positions that are committed already count.
    The gap is taken before any logit transform, so credit does not inflate it.

    Progress is (forwards so far, this one included) / ``steps``; ``steps=None``: what ``tokens_per_step`` positions a
    step take to fill the region. With ``progress="filled"`` it is the share of generated positions that hold a token,
    for samplers that decide by themselves how many they commit.

    Raises:
        SettingsError: steps or tokens_per_step below 1, an unknown progress, an answer region outside the canvas.
    """

    region: AnswerRegion = field(default_factory=AnswerRegion)
    thresholds: Stages | Smooth = field(default_factory=Stages)
    steps: int | None = None
    tokens_per_step: int = 1
    progress: Literal["steps", "filled"] = "steps"

    needs = frozenset[Statistic]({"gap"})

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, tokens_per_step=self.tokens_per_step)

    def bind(self, tokenizer: Any, vocab_size: int) -> AnswerGap:
        return replace(self, region=self.region.bind(tokenizer))

    def check(self, region: int, block: int) -> None:
        self.region.check(region)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return self.region.where(canvas)

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return self.region.most(eligible, size.region)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, " B"], None]:
        assert view.proposal.gap is not None
        canvas, gap = view.canvas, view.proposal.gap
        here = self.region.where(canvas).gather(1, view.positions)
        # A row without a region has the mean 0/0, which reaches nothing.
        total = torch.where(here, gap, canvas.number(0.0, gap.dtype)).sum(dim=1, dtype=torch.float64)
        mean = total / here.sum(dim=1)
        region = canvas.region
        if self.progress == "filled":
            share = 1.0 - canvas.masked.sum(dim=1) / region
        else:
            each = self.tokens_per_step
            steps = region if each == 1 else (region + (each - 1)) // each
            share = (view.blocks.step + 1).double() / (
                steps if self.steps is None else torch.full_like(region, self.steps)
            )
        return mean.double() >= self.thresholds.required(share).double(), state
