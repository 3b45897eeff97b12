"""Confidence-aware parallel decoding (Fast-dLLM, arXiv 2505.22618, and Fast-dLLM++, arXiv 2606.02955): the model
decides how many tokens per forward."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.sampler import Sampler
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.factor import Factor
from samplers.selectors.frechet import Frechet
from samplers.selectors.threshold import Threshold


def threshold(threshold: float = 0.9, **options: Any) -> Sampler:
    """Commit every position at least as probable as ``threshold``, and always the best one.

    ``threshold`` in (0, 1.01]; 0.9 is the paper's, lower is faster and riskier. ``options``: see
    :class:`samplers.Options`.
    """
    shared = Options.parse("threshold", options)
    return shared.finish(Sampler("threshold", Probability(), Threshold(threshold), shared.block_schedule))


def factor(
    factor: float = 1.0, *, compat: Literal["clean", "reference", "d2cache"] = "clean", **options: Any
) -> Sampler:
    """Commit the longest prefix of the sorted confidences with c_(n) >= 1 - factor/(n + 1).

    ``factor`` 0 or more, larger is faster; 1.0 is the paper's. ``compat="reference"``: with the published last-rank
    slip, see :class:`samplers.Factor`.
    """
    shared = Options.parse("factor", options)
    return shared.finish(Sampler("factor", Probability(), Factor(factor, compat), shared.block_schedule))


def frechet(margin: float = 0.25, **options: Any) -> Sampler:
    """Commit as many of the surest positions as keep a lower bound of their joint probability above any competitor's
    upper bound by more than ``margin``; see :class:`samplers.Frechet`."""
    shared = Options.parse("frechet", options)
    return shared.finish(Sampler("frechet", Probability(), Frechet(margin), shared.block_schedule))
