"""Samplers that take tokens back: WINO, Saber, ReMDM, RCR, and divide and conquer."""

from __future__ import annotations

from typing import Unpack

from dlm.engine.interfaces import Budget
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.fixed import Fixed, Whole, Widening
from samplers.presets.budgeted import Compat, uniform
from samplers.presets.options import SharedOptions, preset, published
from samplers.revisers.hierarchy import Hierarchy, HierarchyRemask, RemaskDoubtful
from samplers.revisers.rcr import FlooredShares, RemaskOvertaken, RunningConfidence
from samplers.revisers.remdm import RemaskingLoop, RemaskLowest
from samplers.revisers.saber import FallingConfidence, MeanThreshold
from samplers.revisers.wino import NarrowOut, WideIn
from samplers.scores.confidence import Probability
from samplers.selectors.top_k import TopK


@published
def wino(wide: float = 0.6, narrow: float = 0.9, **options: Unpack[SharedOptions]) -> Sampler:
    """Wide in, narrow out (WINO, arXiv 2507.18578): commit what is surer than ``wide``; remask tokens whose probability
    without themselves is below ``narrow``.

    Blocks of 128 by default. The paper's ``wide`` by task: GSM8K .6, MATH500, HumanEval and Sudoku .7, MBPP .8,
    Countdown and ARC .5. Every forward carries a masked copy of the block.
    """
    blocks, reviser = Fixed(usual=128), NarrowOut(narrow)
    return preset("wino", options, Probability(), WideIn(wide), blocks, reviser=reviser)


def _reopened(options: SharedOptions, compat: Compat) -> SharedOptions:
    """Options with which, under ``compat="reference"``, tokens of earlier blocks are taken back too."""
    blocks = options.get("blocks")
    if compat == "clean" or blocks is None or isinstance(blocks, Whole):
        return options
    if type(blocks) is not Fixed:
        raise SettingsError(
            f'compat="reference" takes back tokens of earlier blocks, which {type(blocks).__name__} does not let'
            ' reopen: use blocks=fixed or whole, or compat="clean"'
        )
    return options | {"blocks": Widening(blocks.length, blocks.usual)}


@published
def saber(minimum: int = 2, *, compat: Compat = "clean", **options: Unpack[SharedOptions]) -> Sampler:
    """Adaptive acceleration with backtracking, made for code (Saber, arXiv 2510.18165): commit what is surer than the
    average token so far, at least ``minimum``; take back those that gained least. The whole canvas is one block by
    default. In smaller ones ``compat="reference"`` takes back tokens of earlier blocks too, as published."""
    selector, reviser = MeanThreshold(minimum), FallingConfidence(minimum)
    return preset("saber", _reopened(options, compat), Probability(), selector, Whole(), reviser=reviser)


@published
def remdm(
    *,
    tokens_per_step: int = 1,
    cycles: int | None = None,
    number: int = 1,
    start: float = 0.875,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """A fixed budget with ``cycles`` extra forwards when ``start`` of a block is filled, each refilling the ``number``
    tokens that were committed with the lowest confidence (ReMDM, arXiv 2503.00307, on LLaDA). For quality: slower than
    its base."""
    loop = RemaskingLoop(tokens_per_step, cycles, number, start)
    return preset("remdm", options, Probability(), TopK(), budget=loop, reviser=RemaskLowest(loop))


@published
def rcr(
    *,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    compat: Compat = "clean",
    **options: Unpack[SharedOptions],
) -> Sampler:
    """A fixed budget in which positions keep competing: a committed token is taken back when enough open ones are surer
    than it was (running confidence remasking, RCR, of MDPO, arXiv 2508.13148). ``compat="reference"``: tokens of
    earlier blocks compete too, and ``steps`` are rounded, as in the published code."""
    options, reviser = _reopened(options, compat), RemaskOvertaken()
    budget: Budget = uniform(tokens_per_step, steps)
    if compat == "reference" and steps is not None:
        budget = FlooredShares(steps)
    return preset("rcr", options, Probability(), RunningConfidence(), budget=budget, reviser=reviser)


@published
def hierarchy(
    low: float = 0.3, high: float | None = 0.9, *, first: bool = False, **options: Unpack[SharedOptions]
) -> Sampler:
    """Commit the best position of every run of masks (above ``low``) and everything above ``high`` (divide and conquer:
    Hierarchy-dLLM, openreview ZsIQUjQtdW; dInfer)."""
    return preset("hierarchy", options, Probability(), Hierarchy(low, high, first))


@published
def hierarchy_remask(
    low: float = 0.4,
    high: float | None = 0.9,
    *,
    doubt: float = 0.4,
    first: bool = False,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """The same; committed tokens whose position has become doubtful are written anew or masked again."""
    selector, reviser = HierarchyRemask(low, high, doubt, first), RemaskDoubtful(doubt)
    return preset("hierarchy_remask", options, Probability(), selector, reviser=reviser)
