"""WINO (arXiv 2507.18578): wide in, narrow out. Tokens are committed boldly and taken back when in doubt."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.blocks.fixed import Fixed
from samplers.presets.options import Options
from samplers.revisers.narrow_out import NarrowOut
from samplers.scores.probability import Probability
from samplers.selectors.wide_in import WideIn


def wino(wide: float = 0.6, narrow: float = 0.9, **options: Any) -> Sampler:
    """Commit what is surer than ``wide``; remask tokens whose probability without themselves is below ``narrow``.

    Blocks of 128 by default. The paper's ``wide`` by task: GSM8K .6, MATH500, HumanEval and Sudoku .7, MBPP .8,
    Countdown and ARC .5. Every forward carries a masked copy of the block.
    """
    shared = Options.parse("wino", options)
    blocks = shared.blocks_or(Fixed(usual=128))
    return shared.finish(Sampler("wino", Probability(), WideIn(wide), blocks, reviser=NarrowOut(narrow)))
