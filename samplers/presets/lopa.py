"""LoPA (arXiv 2512.16229): look-ahead branches beside threshold decoding."""

from __future__ import annotations

from typing import Any

from dlm.engine.interfaces import Selector
from dlm.engine.sampler import Sampler
from samplers.presets.options import Options
from samplers.probes.lookahead import Lookahead
from samplers.scores.probability import Probability
from samplers.selectors.threshold import Threshold


def lopa(threshold: float = 0.9, *, branches: int = 3, selector: Selector | None = None, **options: Any) -> Sampler:
    """Threshold decoding (or ``selector``) in which every forward also tries ``branches`` rows with one more token each
    and goes on with the surest; see :class:`samplers.Lookahead`. A forward costs 1 + ``branches`` rows."""
    shared = Options.parse("lopa", options)
    chooser = selector or Threshold(threshold)
    return shared.finish(Sampler("lopa", Probability(), chooser, shared.block_schedule, probe=Lookahead(branches)))
