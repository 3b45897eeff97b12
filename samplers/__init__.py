"""Samplers and the parts they are made of.

Lower-case names are presets, one per published method, each returning a :class:`dlm.Sampler`. Capitalised names are
parts (scores, selectors, budgets, blocks, transforms, modifiers, exits, stop rules, revisers, probes, constraints):
small frozen classes that can be combined at will, beside parts of your own that extend the same roles
(:mod:`dlm.engine.interfaces`).
"""

# fmt: off
# isort: off
from samplers.blocks.adaptive import AdaptiveBlocks
from samplers.blocks.fixed import Aligned, Fixed, Whole, Widening
from samplers.blocks.growing import DensityBlocks, GrowingBlocks
from samplers.blocks.pipelined import PipelinedBlocks
from samplers.blocks.sliding import SlidingBlocks
from samplers.budgets.ascending import Ascending, AscendingBlocks
from samplers.budgets.block_steps import BlockSteps
from samplers.budgets.profile import ProfiledSteps
from samplers.budgets.time_grid import TimeGrid
from samplers.budgets.uniform import CarryOver, Uniform
from samplers.constraints.regular import JsonSchema, Regex
from samplers.ends import BanEnd, EndBlock, EndOfText, EndRejection, SuppressEnd
from samplers.exits.answer_gap import AnswerGap, AnswerRegion, Smooth, Stages
from samplers.learn2pd.oracle import Oracle, OracleEscape
from samplers.learn2pd.selector import Learn2PD
from samplers.learned_policy.selector import LearnedPolicy
from samplers.modifiers.certainty_prior import CertaintyPrior
from samplers.presets.blockwise import fast_dllm_v2, llada2, sdar
from samplers.presets.budgeted import (
    ass, ccd, ccd_ds, certainty_prior, dream_entropy, dream_margin, dream_maskgit_plus, dream_origin, dus, entropy,
    eoser, eoser_ass, margin, pc, profiled, random, topk,
)
from samplers.presets.confident import (
    adablock, credit, d3llm, dawn, dcd, dimple, eb, entropy_threshold, factor, frechet, klass, localleap, lopa, overlap,
    slowfast, threshold, verified,
)
from samplers.presets.learn2pd import learn2pd, oracle, policy
from samplers.presets.options import Options
from samplers.presets.probing import core, info_gain, punt, soar, unlock
from samplers.presets.prophet import prophet, sched
from samplers.presets.revising import hierarchy, hierarchy_remask, rcr, remdm, saber, wino
from samplers.probes.core import ContextRobust
from samplers.probes.info_gain import InformationGain
from samplers.probes.lookahead import Lookahead
from samplers.probes.punt import Independence
from samplers.probes.soar import PositionBeam
from samplers.probes.unlock import Unlocking
from samplers.probes.verified import VerifiedDrafts
from samplers.revisers.hierarchy import Hierarchy, HierarchyRemask, RemaskDoubtful
from samplers.revisers.rcr import FlooredShares, RemaskOvertaken, RunningConfidence
from samplers.revisers.remdm import RemaskingLoop, RemaskLowest
from samplers.revisers.saber import FallingConfidence, MeanThreshold
from samplers.revisers.wino import NarrowOut, WideIn
from samplers.scores.calibrated import Calibrated
from samplers.scores.confidence import Earliest, Margin, NegativeEntropy, Probability, Random
from samplers.selectors.coherent import Coherent
from samplers.selectors.combine import Intersect, OrElse, Union
from samplers.selectors.dawn import Dawn
from samplers.selectors.dilated import AllOrNothing, Dilated
from samplers.selectors.dimple import Dimple
from samplers.selectors.editing import Editing
from samplers.selectors.klass import Klass
from samplers.selectors.overlap import OverlapBound
from samplers.selectors.prefix import EntropyBound, Factor, Frechet
from samplers.selectors.slow_fast import SlowFast
from samplers.selectors.threshold import EntropyThreshold, LocalLeap, Threshold
from samplers.selectors.top_k import Bernoulli, BestInFront, FirstOfBlock, TopK
from samplers.transforms.credit import Credit

PRESETS = (
    "topk", "margin", "entropy", "random", "dream_origin", "dream_maskgit_plus", "dream_margin", "dream_entropy",
    "threshold", "factor", "frechet", "entropy_threshold", "dimple", "prophet", "sched", "credit", "localleap",
    "adablock", "eb", "klass", "ccd", "ccd_ds", "eoser", "ass", "eoser_ass", "wino", "hierarchy", "hierarchy_remask",
    "slowfast", "pc", "dcd", "d3llm", "certainty_prior", "saber", "remdm", "rcr", "dawn", "lopa", "learn2pd", "policy",
    "dus", "punt", "info_gain", "core", "soar", "profiled",
    "sdar", "llada2", "fast_dllm_v2", "overlap", "verified", "unlock",
)
__all__ = [
    "PRESETS", "AdaptiveBlocks", "Aligned", "AllOrNothing", "AnswerGap", "AnswerRegion", "Ascending",
    "AscendingBlocks", "BanEnd", "Bernoulli", "BestInFront", "BlockSteps", "Calibrated", "CarryOver", "CertaintyPrior",
    "Coherent", "ContextRobust", "Credit", "Dawn", "DensityBlocks", "Dilated", "Dimple", "Earliest", "Editing",
    "EndBlock", "EndOfText", "EndRejection", "EntropyBound", "EntropyThreshold", "Factor", "FallingConfidence",
    "FirstOfBlock", "Fixed", "FlooredShares", "Frechet", "GrowingBlocks", "Hierarchy", "HierarchyRemask",
    "Independence", "InformationGain", "Intersect", "JsonSchema", "Klass", "Learn2PD", "LearnedPolicy", "LocalLeap",
    "Lookahead", "Margin", "MeanThreshold", "NarrowOut", "NegativeEntropy", "Options", "OrElse", "Oracle",
    "OracleEscape", "OverlapBound", "PipelinedBlocks", "PositionBeam", "Probability", "ProfiledSteps", "Random",
    "Regex", "RemaskDoubtful", "RemaskLowest", "RemaskOvertaken", "RemaskingLoop", "RunningConfidence",
    "SlidingBlocks", "SlowFast", "Smooth", "Stages", "SuppressEnd", "Threshold", "TimeGrid", "TopK", "Uniform",
    "Union", "Unlocking", "VerifiedDrafts", "Whole", "WideIn", "Widening", "adablock", "ass", "ccd", "ccd_ds",
    "certainty_prior", "core", "credit", "d3llm", "dawn", "dcd", "dimple", "dream_entropy", "dream_margin",
    "dream_maskgit_plus", "dream_origin", "dus", "eb", "entropy", "entropy_threshold", "eoser", "eoser_ass", "factor",
    "fast_dllm_v2", "frechet", "hierarchy", "hierarchy_remask", "info_gain", "klass", "learn2pd", "llada2",
    "localleap", "lopa", "margin", "oracle", "overlap", "pc", "policy", "profiled", "prophet", "punt", "random", "rcr",
    "remdm", "saber", "sched", "sdar", "slowfast", "soar", "threshold", "topk", "unlock", "verified", "wino",
]
