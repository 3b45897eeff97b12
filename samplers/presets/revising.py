"""Samplers that take tokens back: WINO, Saber, ReMDM, RCR, and divide and conquer."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.blocks.fixed import Fixed, Whole
from samplers.presets.budgeted import uniform
from samplers.presets.options import preset
from samplers.revisers.hierarchy import Hierarchy, HierarchyRemask, RemaskDoubtful
from samplers.revisers.rcr import RemaskOvertaken, RunningConfidence
from samplers.revisers.remdm import RemaskingLoop, RemaskLowest
from samplers.revisers.saber import FallingConfidence, MeanThreshold
from samplers.revisers.wino import NarrowOut, WideIn
from samplers.scores.confidence import Probability
from samplers.selectors.top_k import TopK


def wino(wide: float = 0.6, narrow: float = 0.9, **options: Any) -> Sampler:
    """Wide in, narrow out (WINO, arXiv 2507.18578): commit what is surer than ``wide``; remask tokens whose probability
    without themselves is below ``narrow``.

    Blocks of 128 by default. The paper's ``wide`` by task: GSM8K .6, MATH500, HumanEval and Sudoku .7, MBPP .8,
    Countdown and ARC .5. Every forward carries a masked copy of the block.
    """
    blocks, reviser = Fixed(usual=128), NarrowOut(narrow)
    return preset("wino", options, Probability(), WideIn(wide), blocks, reviser=reviser)


def saber(minimum: int = 2, **options: Any) -> Sampler:
    """Adaptive acceleration with backtracking, made for code (Saber, arXiv 2510.18165): commit what is surer than the
    average token so far, at least ``minimum``; take back those that gained least. The whole canvas is one block by
    default."""
    selector, reviser = MeanThreshold(minimum), FallingConfidence(minimum)
    return preset("saber", options, Probability(), selector, Whole(), reviser=reviser)


def remdm(
    *, tokens_per_step: int = 1, cycles: int | None = None, number: int = 1, start: float = 0.875, **options: Any
) -> Sampler:
    """A fixed budget with ``cycles`` extra forwards when ``start`` of a block is filled, each refilling the ``number``
    tokens that were committed with the lowest confidence (ReMDM, arXiv 2503.00307, on LLaDA). For quality: slower than
    its base."""
    loop = RemaskingLoop(tokens_per_step, cycles, number, start)
    return preset("remdm", options, Probability(), TopK(), budget=loop, reviser=RemaskLowest(loop))


def rcr(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Any) -> Sampler:
    """A fixed budget in which positions keep competing: a committed token is taken back when enough others have been
    more confident at some time (RCR of MDPO, details UNVERIFIED)."""
    budget, reviser = uniform(tokens_per_step, steps), RemaskOvertaken()
    return preset("rcr", options, Probability(), RunningConfidence(), budget=budget, reviser=reviser)


def hierarchy(low: float = 0.3, high: float | None = 0.9, *, first: bool = False, **options: Any) -> Sampler:
    """Commit the best position of every run of masks (above ``low``) and everything above ``high`` (divide and conquer:
    Hierarchy-dLLM, openreview ZsIQUjQtdW; dInfer)."""
    return preset("hierarchy", options, Probability(), Hierarchy(low, high, first))


def hierarchy_remask(low: float = 0.4, high: float | None = 0.9, *, doubt: float = 0.4, **options: Any) -> Sampler:
    """The same; committed tokens whose position has become doubtful are written anew or masked again."""
    selector, reviser = HierarchyRemask(low, high, doubt), RemaskDoubtful(doubt)
    return preset("hierarchy_remask", options, Probability(), selector, reviser=reviser)
