"""The decoders of block-diffusion models. They run on any model; the settings are those of the publications."""

from __future__ import annotations

from typing import Literal, Unpack

from dlm.engine.interfaces import Score, Selector
from dlm.engine.sampler import Sampler
from samplers.blocks.fixed import Aligned
from samplers.budgets.block_steps import BlockSteps
from samplers.presets.options import SharedOptions, preset, published
from samplers.scores.confidence import Earliest, NegativeEntropy, Probability
from samplers.selectors.combine import OrElse, Union
from samplers.selectors.editing import Editing
from samplers.selectors.prefix import EntropyBound
from samplers.selectors.threshold import Threshold
from samplers.selectors.top_k import FirstOfBlock, TopK

Strategy = Literal["dynamic", "static", "sequential", "entropy_bounded"]


@published
def sdar(
    strategy: Strategy = "dynamic",
    *,
    threshold: float = 0.85,
    gamma: float = 0.35,
    steps_per_block: int | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """SDAR's four rules (arXiv 2510.06303). ``static``: the surest positions, a block in ``steps_per_block`` steps (by
    default one position a step); ``dynamic``: the same, and all that are at least as probable as ``threshold``;
    ``sequential``: from left to right; ``entropy_bounded``: the least uncertain ones whose entropies add up to less
    than ``gamma`` nats."""
    if strategy == "entropy_bounded":
        return preset("sdar", options, NegativeEntropy(), EntropyBound(gamma, "sdar"), Aligned())
    score: Score = Earliest() if strategy == "sequential" else Probability()
    selector: Selector = Union((Threshold(threshold), TopK())) if strategy == "dynamic" else TopK()
    return preset("sdar", options, score, selector, Aligned(), budget=BlockSteps(steps_per_block))


@published
def llada2(
    threshold: float = 0.95,
    *,
    editing: float | None = None,
    minimum: int = 1,
    most_edits: int = 16,
    steps_per_block: int | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """LLaDA2.0 (arXiv 2512.15745): everything more probable than ``threshold``, and never fewer positions than a block
    in ``steps_per_block`` steps needs (by default one a step). With ``editing`` LLaDA2.1 (arXiv 2602.08676): at least
    ``minimum`` positions a step, and tokens of the open block are replaced where the model is surer than that of
    another one; ``most_edits`` bounds the steps after its last mask. Published pairs of threshold and editing: 0.7 and
    0.5 for quality, 0.5 and 0 for speed."""
    if editing is None:
        rule = Union((Threshold(threshold), TopK()))
        return preset("llada2", options, Probability(), rule, Aligned(), budget=BlockSteps(steps_per_block))
    return preset("llada2", options, Probability(), Editing(threshold, editing, minimum, most_edits), Aligned())


@published
def fast_dllm_v2(
    threshold: float = 0.9, *, first_alone: int | None = None, **options: Unpack[SharedOptions]
) -> Sampler:
    """Fast-dLLM v2 (arXiv 2509.26328): all positions at least as probable as ``threshold``, and the best one;
    ``blocks.length=8`` are its sub-blocks. ``first_alone=32``: as its code does, the first position of a block of so
    many is committed by itself, whatever its probability."""
    selector: Selector = Threshold(threshold)
    if first_alone is not None:
        selector = OrElse((FirstOfBlock(first_alone), selector))
    return preset("fast_dllm_v2", options, Probability(), selector, Aligned())
