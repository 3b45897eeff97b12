"""Dream's samplers (Dream 7B, arXiv 2508.15487): one block, a time grid, confidence under the filtered distribution."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.interfaces import Score, Selector
from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.budgets.time_grid import TimeGrid
from samplers.presets.options import preset
from samplers.scores.confidence import Margin, NegativeEntropy, Probability
from samplers.selectors.top_k import Bernoulli, TopK

Compat = Literal["clean", "reference"]


def _on_grid(
    name: str, options: dict[str, Any], score: Score, selector: Selector, budget: TimeGrid | None = None
) -> Sampler:
    if options.get("blocks") not in (None, Whole()):
        raise SettingsError(
            f"sampler {name!r} runs its time grid over the whole canvas: use blocks=whole, or a fixed budget with"
            " blocks (sampler=topk, margin or entropy)"
        )
    proposer = Proposer(confidence="filtered")
    return preset(name, options, score, selector, Whole(), budget=budget, proposer=proposer)


def dream_origin(*, steps: int | None = None, eps: float = 1e-3, **options: Any) -> Sampler:
    """``alg="origin"``: every masked position is committed with probability 1 - s/t, whatever its confidence."""
    return _on_grid("dream_origin", options, Probability(), Bernoulli(TimeGrid(steps, eps)))


def dream_maskgit_plus(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Any,
) -> Sampler:
    """``alg="maskgit_plus"``: the most probable proposals first.

    ``steps``: forwards over the whole canvas (None: one per position). ``alg_temp`` above 0 draws the positions.
    ``compat``: how the number per step is rounded, see :class:`samplers.TimeGrid`.
    """
    selector, grid = TopK(alg_temp or 0.0), TimeGrid(steps, eps, compat)
    return _on_grid("dream_maskgit_plus", options, Probability(), selector, grid)


def dream_margin(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Any,
) -> Sampler:
    """``alg="topk_margin"``: the largest gap between the two best tokens first. Settings as ``dream_maskgit_plus``."""
    selector, grid = TopK(alg_temp or 0.0), TimeGrid(steps, eps, compat)
    return _on_grid("dream_margin", options, Margin(), selector, grid)


def dream_entropy(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Any,
) -> Sampler:
    """``alg="entropy"``: the lowest entropy first, Dream's recommended rule. Settings as ``dream_maskgit_plus``."""
    selector, grid = TopK(alg_temp or 0.0), TimeGrid(steps, eps, compat)
    return _on_grid("dream_entropy", options, NegativeEntropy(), selector, grid)
