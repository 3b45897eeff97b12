"""Coherent contextual decoding (CCD, arXiv 2512.02044)."""

from __future__ import annotations

from typing import Any

from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from samplers.blocks.whole import Whole
from samplers.presets.options import Options
from samplers.scores.negative_entropy import NegativeEntropy
from samplers.selectors.coherent import Coherent


def _ccd(name: str, selector: Coherent, options: dict[str, Any]) -> Sampler:
    shared = Options.parse(name, options)
    blocks, proposer = shared.blocks_or(Whole()), Proposer(confidence="filtered")
    return shared.finish(Sampler(name, NegativeEntropy(), selector, blocks, proposer=proposer))


def ccd(*, steps: int | None = None, expand: float = 4.0, warm_up: int = 5, **options: Any) -> Sampler:
    """``steps`` forwards over the whole canvas (None: one per position); positions that kept their token while they
    waited go first. See :class:`samplers.Coherent`."""
    return _ccd("ccd", Coherent(False, steps, expand, warm_up), options)


def ccd_ds(*, steps: int | None = None, expand: float = 4.0, warm_up: int = 5, **options: Any) -> Sampler:
    """The same, committing all that kept their token at once: fewer forwards than ``steps``."""
    return _ccd("ccd_ds", Coherent(True, steps, expand, warm_up), options)
