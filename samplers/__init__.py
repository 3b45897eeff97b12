"""Samplers and the parts they are made of.

Lower-case names are presets, one per published method, each returning a :class:`dlm.Sampler`. Capitalised names are
parts (scores, selectors, budgets, blocks, transforms, modifiers, stop rules): small frozen classes that can be combined
at will, beside parts of your own that offer the same methods (:mod:`dlm.protocols`).
"""

from samplers.blocks.fixed import Fixed
from samplers.blocks.whole import Whole
from samplers.budgets.carry_over import CarryOver
from samplers.budgets.time_grid import TimeGrid
from samplers.budgets.uniform import Uniform
from samplers.modifiers.suppress_end import SuppressEnd
from samplers.presets.dream import dream_entropy, dream_margin, dream_maskgit_plus, dream_origin
from samplers.presets.fast_dllm import factor, threshold
from samplers.presets.llada import entropy, margin, random, topk
from samplers.presets.options import Options
from samplers.scores.margin import Margin
from samplers.scores.negative_entropy import NegativeEntropy
from samplers.scores.probability import Probability
from samplers.scores.random import Random
from samplers.selectors.bernoulli import Bernoulli
from samplers.selectors.factor import Factor
from samplers.selectors.threshold import Threshold
from samplers.selectors.top_k import TopK
from samplers.stops.end_block import EndBlock
from samplers.transforms.ban_end import BanEnd

PRESETS = (
    "topk",
    "margin",
    "entropy",
    "random",
    "dream_origin",
    "dream_maskgit_plus",
    "dream_margin",
    "dream_entropy",
    "threshold",
    "factor",
)

__all__ = [
    "PRESETS",
    "BanEnd",
    "Bernoulli",
    "CarryOver",
    "EndBlock",
    "Factor",
    "Fixed",
    "Margin",
    "NegativeEntropy",
    "Options",
    "Probability",
    "Random",
    "SuppressEnd",
    "Threshold",
    "TimeGrid",
    "TopK",
    "Uniform",
    "Whole",
    "dream_entropy",
    "dream_margin",
    "dream_maskgit_plus",
    "dream_origin",
    "entropy",
    "factor",
    "margin",
    "random",
    "threshold",
    "topk",
]
