"""Samplers that ask what if: every forward feeds versions of a row beside it."""

from __future__ import annotations

from typing import Unpack

from dlm.engine.sampler import Sampler
from samplers.presets.options import SharedOptions, preset, published
from samplers.probes.info_gain import InformationGain
from samplers.probes.punt import Independence
from samplers.scores.confidence import Probability
from samplers.selectors.dilated import AllOrNothing
from samplers.selectors.threshold import Threshold


@published
def punt(
    tolerance: float = 0.05, *, levels: int = 5, threshold: float = 0.9, **options: Unpack[SharedOptions]
) -> Sampler:
    """Commit what does not move by more than ``tolerance`` nats when the surer half is revealed, at every halving
    (conditional-independence tests: PUNT, arXiv 2510.21961); see :class:`samplers.Independence`. A forward costs
    1 + log2 of the open positions rows, at most 1 + ``levels``. The first forward of a block, which has nothing to
    reveal yet, commits what reaches ``threshold``."""
    return preset("punt", options, Probability(), Threshold(threshold), probe=Independence(tolerance, levels))


@published
def info_gain(
    candidates: int = 8,
    *,
    position_temperature: float = 0.2,
    threshold: float = 0.8,
    cost: bool = True,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Of ``candidates`` single tokens commit the one that makes the model surest of the rest of the block (Info-Gain
    sampler, arXiv 2602.18176; LookUM without ``cost``); see :class:`samplers.InformationGain`. A forward costs
    1 + ``candidates`` rows; the first one of a block commits nothing, unless everything reaches ``threshold``."""
    probe = InformationGain(candidates, position_temperature, threshold, cost)
    return preset("info_gain", options, Probability(), AllOrNothing(threshold), probe=probe)
