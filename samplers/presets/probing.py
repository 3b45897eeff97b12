"""Samplers that ask what if: forwards feed versions of a row beside it."""

from __future__ import annotations

from typing import Unpack

from dlm.engine.sampler import Sampler
from samplers.blocks.fixed import Whole
from samplers.budgets.uniform import Uniform
from samplers.presets.options import SharedOptions, preset, published
from samplers.probes.core import ContextRobust
from samplers.probes.info_gain import InformationGain
from samplers.probes.punt import Independence
from samplers.probes.soar import PositionBeam
from samplers.probes.unlock import Unlocking
from samplers.revisers.wino import WideIn
from samplers.scores.confidence import Probability
from samplers.selectors.dilated import AllOrNothing
from samplers.selectors.threshold import Threshold
from samplers.selectors.top_k import TopK


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


@published
def core(
    *,
    tokens_per_step: int = 1,
    every: int = 8,
    candidates: int = 32,
    number: int = 1,
    protected: int = 16,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """A fixed budget by confidence; every ``every`` steps the ``candidates`` most doubtful tokens are masked in a
    version of the row, and the ``number`` least likely ones there replaced (context-robust remasking: CORE, arXiv
    2602.04096); see :class:`samplers.ContextRobust`. Only such steps feed a second row; one that replaces something
    commits nothing else. The whole canvas is one block by default."""
    probe = ContextRobust(tokens_per_step, every, candidates, number, protected=protected)
    return preset("core", options, Probability(), TopK(), Whole(), budget=Uniform(tokens_per_step), probe=probe)


@published
def soar(threshold: float = 0.95, *, beams: int = 2, most: int = 5, **options: Unpack[SharedOptions]) -> Sampler:
    """Commit up to ``most`` positions above ``threshold``; where there is none, follow ``beams`` orders of commits side
    by side until there is one (confidence-switched position beam search: SOAR, arXiv 2602.10953); see
    :class:`samplers.PositionBeam`. Only forwards without a sure position are followed by ones with more rows."""
    probe, sure = PositionBeam(beams, threshold, most), WideIn(threshold, 1.0, 1, most)
    return preset("soar", options, Probability(), sure, probe=probe)


@published
def unlock(
    threshold: float = 0.9, *, candidates: int = 4, floor: float = 0.5, **options: Unpack[SharedOptions]
) -> Sampler:
    """Commit what reaches ``threshold``; after a step that found nothing, try ``candidates`` unsure tokens and keep the
    one that unlocks most (ours, after the abstract of ETE, arXiv 2511.21103); see :class:`samplers.Unlocking`."""
    return preset("unlock", options, Probability(), Threshold(threshold), probe=Unlocking(threshold, candidates, floor))
