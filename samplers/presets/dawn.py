"""DAWN (arXiv 2602.06953): commit together what does not attend to each other."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.dawn import Dawn


def dawn(
    sure: float = 0.9,
    *,
    induced: float = 0.7,
    low: float = 0.75,
    edge: float = 0.07,
    sink: float = 0.01,
    **options: Any,
) -> Sampler:
    """See :class:`samplers.Dawn`. The paper's numbers for LLaDA are the defaults (``low`` .80 for HumanEval, .70 for
    MBPP); for Dream: induced .75, low .80, edge .10, sink .03. Every forward yields attention maps."""
    shared = Options.parse("dawn", options)
    selector = Dawn(sure, induced, low, edge, sink)
    return shared.finish(Sampler("dawn", Probability(), selector, shared.block_schedule))
