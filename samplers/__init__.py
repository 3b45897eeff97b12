"""Samplers and the parts they are made of.

Lower-case names are presets, one per published method, each returning a :class:`dlm.Sampler`. Capitalised names are
parts (scores, selectors, budgets, blocks, transforms, modifiers, exits, stop rules, revisers, probes): small frozen
classes that can be combined at will, beside parts of your own that extend the same roles
(:mod:`dlm.engine.interfaces`).
"""

from samplers.blocks.adaptive import AdaptiveBlocks
from samplers.blocks.ascending import AscendingBlocks
from samplers.blocks.fixed import Fixed
from samplers.blocks.growing import GrowingBlocks
from samplers.blocks.sliding import SlidingBlocks
from samplers.blocks.whole import Whole
from samplers.budgets.ascending import Ascending
from samplers.budgets.carry_over import CarryOver
from samplers.budgets.remdm import RemaskingLoop
from samplers.budgets.time_grid import TimeGrid
from samplers.budgets.uniform import Uniform
from samplers.exits.answer_gap import AnswerGap, Smooth, Stages
from samplers.exits.regions import AnswerRegion
from samplers.learn2pd.oracle import Oracle
from samplers.learn2pd.selector import Learn2PD
from samplers.modifiers.certainty_prior import CertaintyPrior
from samplers.modifiers.end_rejection import EndRejection
from samplers.modifiers.suppress_end import SuppressEnd
from samplers.presets.adablock import adablock
from samplers.presets.ccd import ccd, ccd_ds
from samplers.presets.certainty import certainty_prior
from samplers.presets.credit import credit
from samplers.presets.dawn import dawn
from samplers.presets.dimple import dimple
from samplers.presets.dparallel import entropy_threshold
from samplers.presets.dream import dream_entropy, dream_margin, dream_maskgit_plus, dream_origin
from samplers.presets.eb import eb
from samplers.presets.eoser import ass, eoser, eoser_ass
from samplers.presets.fast_dllm import factor, frechet, threshold
from samplers.presets.hierarchy import hierarchy, hierarchy_remask
from samplers.presets.klass import klass
from samplers.presets.learn2pd import learn2pd, oracle
from samplers.presets.llada import entropy, margin, random, topk
from samplers.presets.local_leap import localleap
from samplers.presets.lopa import lopa
from samplers.presets.options import Options
from samplers.presets.pc import pc
from samplers.presets.prophet import prophet, sched
from samplers.presets.remasking import rcr, remdm
from samplers.presets.saber import saber
from samplers.presets.slow_fast import slowfast
from samplers.presets.wino import wino
from samplers.probes.lookahead import Lookahead
from samplers.revisers.falling_confidence import FallingConfidence
from samplers.revisers.narrow_out import NarrowOut
from samplers.revisers.remask_doubtful import RemaskDoubtful
from samplers.revisers.remask_lowest import RemaskLowest
from samplers.revisers.remask_overtaken import RemaskOvertaken
from samplers.scores.calibrated import Calibrated
from samplers.scores.margin import Margin
from samplers.scores.negative_entropy import NegativeEntropy
from samplers.scores.probability import Probability
from samplers.scores.random import Random
from samplers.selectors.bernoulli import Bernoulli
from samplers.selectors.coherent import Coherent
from samplers.selectors.combine import Intersect, OrElse, Union
from samplers.selectors.dawn import Dawn
from samplers.selectors.dimple import Dimple
from samplers.selectors.entropy_bound import EntropyBound
from samplers.selectors.entropy_threshold import EntropyThreshold
from samplers.selectors.factor import Factor
from samplers.selectors.frechet import Frechet
from samplers.selectors.hierarchy import Hierarchy, HierarchyRemask
from samplers.selectors.klass import Klass
from samplers.selectors.local_leap import LocalLeap
from samplers.selectors.mean_threshold import MeanThreshold
from samplers.selectors.running_confidence import RunningConfidence
from samplers.selectors.slow_fast import SlowFast
from samplers.selectors.threshold import Threshold
from samplers.selectors.top_k import TopK
from samplers.selectors.wide_in import WideIn
from samplers.stops.end_block import EndBlock
from samplers.stops.end_of_text import EndOfText
from samplers.transforms.ban_end import BanEnd
from samplers.transforms.credit import Credit

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
    "frechet",
    "entropy_threshold",
    "dimple",
    "prophet",
    "sched",
    "credit",
    "localleap",
    "adablock",
    "eb",
    "klass",
    "ccd",
    "ccd_ds",
    "eoser",
    "ass",
    "eoser_ass",
    "wino",
    "hierarchy",
    "hierarchy_remask",
    "slowfast",
    "pc",
    "certainty_prior",
    "saber",
    "remdm",
    "rcr",
    "dawn",
    "lopa",
    "learn2pd",
)

__all__ = [
    "PRESETS",
    "AdaptiveBlocks",
    "AnswerGap",
    "AnswerRegion",
    "Ascending",
    "AscendingBlocks",
    "BanEnd",
    "Bernoulli",
    "Calibrated",
    "CarryOver",
    "CertaintyPrior",
    "Coherent",
    "Credit",
    "Dawn",
    "Dimple",
    "EndBlock",
    "EndOfText",
    "EndRejection",
    "EntropyBound",
    "EntropyThreshold",
    "Factor",
    "FallingConfidence",
    "Fixed",
    "Frechet",
    "GrowingBlocks",
    "Hierarchy",
    "HierarchyRemask",
    "Intersect",
    "Klass",
    "Learn2PD",
    "LocalLeap",
    "Lookahead",
    "Margin",
    "MeanThreshold",
    "NarrowOut",
    "NegativeEntropy",
    "Options",
    "OrElse",
    "Oracle",
    "Probability",
    "Random",
    "RemaskDoubtful",
    "RemaskLowest",
    "RemaskOvertaken",
    "RemaskingLoop",
    "RunningConfidence",
    "SlidingBlocks",
    "SlowFast",
    "Smooth",
    "Stages",
    "SuppressEnd",
    "Threshold",
    "TimeGrid",
    "TopK",
    "Uniform",
    "Union",
    "Whole",
    "WideIn",
    "adablock",
    "ass",
    "ccd",
    "ccd_ds",
    "certainty_prior",
    "credit",
    "dawn",
    "dimple",
    "dream_entropy",
    "dream_margin",
    "dream_maskgit_plus",
    "dream_origin",
    "eb",
    "entropy",
    "entropy_threshold",
    "eoser",
    "eoser_ass",
    "factor",
    "frechet",
    "hierarchy",
    "hierarchy_remask",
    "klass",
    "learn2pd",
    "localleap",
    "lopa",
    "margin",
    "oracle",
    "pc",
    "prophet",
    "random",
    "rcr",
    "remdm",
    "saber",
    "sched",
    "slowfast",
    "threshold",
    "topk",
    "wino",
]
