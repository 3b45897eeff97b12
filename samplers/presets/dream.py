"""Dream's samplers (Dream 7B, arXiv 2508.15487): one block, a time grid, confidence under the filtered distribution."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.interfaces import Score
from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.whole import Whole
from samplers.budgets.time_grid import TimeGrid
from samplers.presets.options import Options
from samplers.scores.margin import Margin
from samplers.scores.negative_entropy import NegativeEntropy
from samplers.scores.probability import Probability
from samplers.selectors.bernoulli import Bernoulli
from samplers.selectors.top_k import TopK

Compat = Literal["clean", "reference"]


def _options(name: str, options: dict[str, Any]) -> Options:
    blocks = options.get("blocks")
    if blocks not in (None, Whole()):
        raise SettingsError(
            f"sampler {name!r} runs its time grid over the whole canvas: use blocks=whole, or a fixed budget with"
            " blocks (sampler=topk, margin or entropy)"
        )
    return Options.parse(name, {**options, "blocks": Whole()})


def _on_grid(name: str, score: Score, grid: TimeGrid, alg_temp: float | None, options: dict[str, Any]) -> Sampler:
    shared = _options(name, options)
    proposer = Proposer(confidence="filtered")
    return shared.finish(Sampler(name, score, TopK(alg_temp or 0.0), Whole(), grid, proposer))


def dream_origin(*, steps: int | None = None, eps: float = 1e-3, **options: Any) -> Sampler:
    """``alg="origin"``: every masked position is committed with probability 1 - s/t, whatever its confidence."""
    shared = _options("dream_origin", options)
    proposer = Proposer(confidence="filtered")
    grid = TimeGrid(steps, eps)
    return shared.finish(Sampler("dream_origin", Probability(), Bernoulli(grid), Whole(), None, proposer))


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
    grid = TimeGrid(steps, eps, compat)
    return _on_grid("dream_maskgit_plus", Probability(), grid, alg_temp, options)


def dream_margin(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Any,
) -> Sampler:
    """``alg="topk_margin"``: the largest gap between the two best tokens first. Settings as ``dream_maskgit_plus``."""
    return _on_grid("dream_margin", Margin(), TimeGrid(steps, eps, compat), alg_temp, options)


def dream_entropy(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Any,
) -> Sampler:
    """``alg="entropy"``: the lowest entropy first, Dream's recommended rule. Settings as ``dream_maskgit_plus``."""
    return _on_grid("dream_entropy", NegativeEntropy(), TimeGrid(steps, eps, compat), alg_temp, options)
