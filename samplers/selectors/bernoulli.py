"""Dream's original rule: every position tosses its own coin."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.noise import Purpose
from dlm.engine.step import StepView
from samplers.blocks.whole import Whole
from samplers.budgets.time_grid import TimeGrid, grid_share


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
    def uses_budget(self) -> bool:
        return False

    @property
    def idle_steps(self) -> int:
        return self.grid.idle_steps

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        return view.uniform(Purpose.BERNOULLI) < grid_share(self.grid, view)[:, None], state
