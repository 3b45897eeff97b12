"""The k best positions, the best of the first ones, or (Dream's original rule) those whose own coin falls right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.noise import Purpose, gumbel
from dlm.engine.proposal import COLDEST, HOTTEST
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.budgets.time_grid import TimeGrid, grid_share
from samplers.settings import at_least


@dataclass(frozen=True)
class TopK(Selector):
    """Commit as many positions as the budget says, best score first; equal scores: the lower position first.

    With ``temperature`` (Dream's ``alg_temp``) above 0 the positions are drawn without replacement from
    softmax(score / temperature) instead, by the Gumbel top-k trick (Kool et al., arXiv 1903.06059).

    Raises:
        SettingsError: a temperature out of range.
    """

    temperature: float = 0.0
    order_known = True  # as far as the scores are
    uses_budget = always_commits = True

    def __post_init__(self) -> None:
        if self.temperature != 0 and not COLDEST <= self.temperature <= HOTTEST:
            raise SettingsError(
                f"alg_temp must be 0 (the best positions) or from {COLDEST:g} to {HOTTEST:g}, got {self.temperature}"
            )

    @property
    def best_first(self) -> bool:
        return self.temperature == 0

    timeless = best_first

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        assert view.budget is not None
        scores = view.scores
        if self.temperature > 0:
            noise = gumbel(view.uniform(Purpose.WITHOUT_REPLACEMENT))
            none = view.canvas.number(-torch.inf, torch.float64)
            scores = torch.where(view.eligible, scores.double() / self.temperature + noise, none)
        return view.rank(scores) < view.budget[:, None], state


@dataclass(frozen=True)
class FirstOfBlock(Selector):
    """Commit the first position of a block of ``every`` positions, counted from position 0, and nothing where it is
    committed already: in front of another selector (:class:`samplers.OrElse`) it is filled alone, however unsure
    (Fast-dLLM v2, arXiv 2509.26328, which takes it from the last row of the block before).

    Raises:
        SettingsError: every below 1.
    """

    every: int = 32

    timeless = True

    def __post_init__(self) -> None:
        at_least(1, every=self.every)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        return view.eligible & (view.positions % self.every == 0), state


@dataclass(frozen=True)
class BestInFront(Selector):
    """Commit the best of the first ``length`` positions of the open span: where several blocks are open
    (:class:`samplers.PipelinedBlocks`), the first of them always goes on (d3LLM, arXiv 2601.07568).

    Raises:
        SettingsError: length below 1.
    """

    length: int = 32

    timeless = always_commits = True

    def __post_init__(self) -> None:
        at_least(1, length=self.length)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        front = view.eligible & (view.positions < (view.blocks.block_start + self.length)[:, None])
        best = view.scores.masked_fill(~front, -torch.inf).argmax(dim=1, keepdim=True)
        return torch.zeros_like(front).scatter_(1, best, True) & front, state


@dataclass(frozen=True)
class Bernoulli(Selector):
    """Commit each masked position independently with probability 1 - s/t on a time grid, all of them in the last step
    (Dream 7B, arXiv 2508.15487, ``alg="origin"``). A step may commit nothing; the grid guarantees the end.

    Raises:
        SettingsError: from the grid (steps < 1, eps outside (0, 1)).
    """

    grid: TimeGrid

    block_schedules = (Whole,)

    @property
    def idle_steps(self) -> int:
        return self.grid.idle_steps

    def check(self, region: int, block: int) -> None:
        self.grid.check(region, block)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        return view.uniform(Purpose.BERNOULLI) < grid_share(self.grid, view).double()[:, None], state
