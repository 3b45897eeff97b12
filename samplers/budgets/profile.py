"""Steps as long as what is known allows: cut where the entropy that is left falls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, log
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dlm.engine.interfaces import Budget
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.settings import at_least


@dataclass(frozen=True)
class ProfiledSteps(Budget):
    """``steps`` steps for the whole canvas, of the sizes that cost least by an information profile (arXiv 2510.25544;
    2511.04647): ``entropies`` h(0) >= h(1) >= ..., h(j) the mean entropy of a position when j others, chosen at random,
    are known. None: steps of equal size.

    Positions that are drawn independently after a known ones are further from the truth, in KL, by the sum of
    h(a) - h(j) over the numbers j = a, a + 1, ... at which they come; in a random order that is exact, in any other a
    guess. The least sum over all ways to cut the profile into ``steps`` parts is found once; for another number of
    positions than the profile has, its cuts are stretched. A step commits what is missing up to its cut, at least one.

    Raises:
        SettingsError: steps below 1, or more than entropies; entropies that rise or are not finite.
    """

    steps: int = 16
    entropies: Sequence[float] | None = None

    block_schedules = (Whole,)
    order_known = True

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        if self.entropies is None:
            return
        falling = all(a >= b for a, b in zip(self.entropies, self.entropies[1:], strict=False))
        if not (falling and all(map(isfinite, self.entropies))):
            raise SettingsError(
                "entropies must be finite and must not rise: measure them with samplers.budgets.profile"
            )
        if self.steps > len(self.entropies):
            raise SettingsError(f"steps must be at most the {len(self.entropies)} entropies given, got {self.steps}")

    def step(self, view: StepView, state: None) -> tuple[Int[Tensor, " B"], None]:
        blocks, profile = view.blocks, None if self.entropies is None else tuple(self.entropies)
        cuts = view.canvas.kept(self, lambda: torch.tensor(best_cuts(profile, self.steps), device=blocks.step.device))
        left = view.eligible.sum(dim=1)
        share = cuts[blocks.block_step.clamp_max(self.steps - 1)]
        until = (share.double() * blocks.block_masks + 0.5).long()
        return (until - (blocks.block_masks - left)).clamp_min(1), state


@lru_cache(maxsize=64)
def best_cuts(entropies: tuple[float, ...] | None, steps: int) -> list[float]:
    """The share of positions known after each step, by dynamic programming over where it ends."""
    if entropies is None:
        return [(step + 1) / steps for step in range(steps)]
    profile = torch.tensor(entropies, dtype=torch.float64)
    many = len(profile)
    total = torch.cat([torch.zeros(1, dtype=torch.float64), profile.cumsum(0)])
    place = torch.arange(many + 1)
    # What a step from a to b costs, [a, b].
    cost = (place - place[:many, None]) * profile[:, None] - (total - total[:many, None])
    cost = cost.masked_fill(place <= place[:many, None], torch.inf)
    least, chosen = cost[0], []
    for _ in range(steps - 1):
        least, before = (least[:many, None] + cost).min(dim=0)
        chosen.append(before)
    ends = [many]
    for before in reversed(chosen):
        ends.append(int(before[ends[-1]]))
    return [end / many for end in reversed(ends)]


def measured(answers: Iterable[Any]) -> tuple[float, ...]:
    """The profile by answers that were drawn one position at a time (``samplers.random(temperature=1.0)``): the mean of
    -log of the confidence at which a step committed, since what is drawn with p has -log p nats of its entropy, made
    to fall (the nearest sequence that does).

    ``answers``: each with ``commit_step`` and ``confidence``, as :func:`dlm.generate` returns them."""
    found: dict[int, list[float]] = {}
    for answer in answers:
        for step, confidence in zip(answer.commit_step, answer.confidence, strict=True):
            if step >= 0:
                found.setdefault(step, []).append(-log(max(confidence, 1e-30)))
    pools: list[tuple[float, int]] = []
    for step in sorted(found):
        mean, count = sum(found[step]) / len(found[step]), 1
        while pools and pools[-1][0] < mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
    return tuple(mean for mean, count in pools for _ in range(count))
