"""EB-Sampler (arXiv 2505.24857): entropy-bounded unmasking."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.interfaces import Score
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.presets.options import Options
from samplers.scores.margin import Margin
from samplers.scores.negative_entropy import NegativeEntropy
from samplers.scores.probability import Probability
from samplers.selectors.entropy_bound import EntropyBound

_RANKINGS: dict[str, type[Probability] | type[Margin] | type[NegativeEntropy]] = {
    "entropy": NegativeEntropy,
    "probability": Probability,
    "margin": Margin,
}


def eb(
    gamma: float = 0.1,
    *,
    ranking: Literal["entropy", "probability", "margin"] = "entropy",
    minimum: int = 1,
    compat: Literal["clean", "d2cache"] = "clean",
    **options: Any,
) -> Sampler:
    """Commit as many positions as keep the bound on their mutual information below ``gamma`` nats.

    ``ranking``: what orders the positions. Others: see :class:`samplers.EntropyBound`.
    """
    if ranking not in _RANKINGS:
        raise SettingsError(f"ranking must be one of {', '.join(_RANKINGS)}, got {ranking!r}")
    shared = Options.parse("eb", options)
    score: Score = _RANKINGS[ranking]()
    return shared.finish(Sampler("eb", score, EntropyBound(gamma, compat, minimum), shared.block_schedule))
