"""Selectors made of selectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule, Selector, offers
from dlm.engine.proposal import Statistic
from dlm.engine.step import BlockState, RowSize, StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class _Several(Selector):
    """What selectors made of others have in common.

    Raises:
        SettingsError: no selectors, or one that rewrites or cuts rows off (its guarantee is its own).
    """

    selectors: Sequence[Selector]

    def __post_init__(self) -> None:
        if not self.selectors:
            raise SettingsError(f"{type(self).__name__} needs at least one selector")
        if any(s.rewrites or offers(s, Selector.visible_end) for s in self.selectors):
            raise SettingsError(f"{type(self).__name__}: a selector that rewrites tokens or cuts rows off stands alone")

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset().union(*(s.needs for s in self.selectors))

    @property
    def uses_budget(self) -> bool:
        return any(s.uses_budget for s in self.selectors)

    @property
    def timeless(self) -> bool:
        return all(s.timeless for s in self.selectors)

    @property
    def block_schedules(self) -> tuple[type[BlockSchedule], ...] | None:
        """The schedules all of them accept; None: any."""
        limits = [s.block_schedules for s in self.selectors if s.block_schedules is not None]
        return tuple(one for one in limits[0] if all(one in limit for limit in limits)) if limits else None

    def init(self, canvas: Canvas) -> tuple[Any, ...]:
        return tuple(s.init(canvas) for s in self.selectors)

    def check(self, region: int, block: int) -> None:
        for selector in self.selectors:
            selector.check(region, block)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"] | None:
        asked = [selector.positions_to_score(canvas, blocks) for selector in self.selectors]
        seen = [positions for positions in asked if positions is not None]
        return torch.stack(seen).any(dim=0) if seen else None

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return eligible + sum(max(0, s.most_positions_to_score(eligible, size) - eligible) for s in self.selectors)

    def forget(self, where: Bool[Tensor, "B W"], state: tuple[Any, ...]) -> tuple[Any, ...]:
        pairs = zip(self.selectors, state, strict=True)
        return tuple(s.forget(where, memory) for s, memory in pairs)

    def step(self, view: StepView, state: tuple[Any, ...]) -> tuple[Bool[Tensor, "B N"], tuple[Any, ...]]:
        both = [s.step(view, memory) for s, memory in zip(self.selectors, state, strict=True)]
        return self._joined([chosen & view.eligible for chosen, _ in both]), tuple(memory for _, memory in both)

    def _joined(self, answers: list[Bool[Tensor, "B N"]]) -> Bool[Tensor, "B N"]:
        """One choice of the selectors' own."""
        raise NotImplementedError


@dataclass(frozen=True)
class Union(_Several):
    """What any of the selectors chooses."""

    def _joined(self, answers: list[Bool[Tensor, "B N"]]) -> Bool[Tensor, "B N"]:
        return torch.stack(answers).any(dim=0)


@dataclass(frozen=True)
class Intersect(_Several):
    """What all of the selectors choose."""

    def _joined(self, answers: list[Bool[Tensor, "B N"]]) -> Bool[Tensor, "B N"]:
        return torch.stack(answers).all(dim=0)


@dataclass(frozen=True)
class OrElse(_Several):
    """The choice of the first selector that chooses anything in the row."""

    def _joined(self, answers: list[Bool[Tensor, "B N"]]) -> Bool[Tensor, "B N"]:
        return reduce(lambda chosen, next_: torch.where(chosen.any(dim=1, keepdim=True), chosen, next_), answers)
