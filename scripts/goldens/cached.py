"""Our caches, and the faults of the references, behind the settings of the cached decoders.

Every function takes the plan of the same reference without a cache and adds what belongs to the cache; see
:mod:`scripts.goldens.translate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

import cache
import samplers
from dlm.engine.interfaces import ScoreModifier
from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from dlm.engine.step import StepView
from scripts.goldens.cases import Case
from scripts.goldens.dream_faults import (
    BlockGrid,
    DreamDKV,
    FirstForced,
    Heads,
    NaNFirst,
    NoLogits,
    Unshifted,
)
from scripts.goldens.faults import D2Shifted, InOrder, KnownOrder, ToppedUp
from scripts.goldens.plan import DREAM_TOP_K, Fault, Plan, Settings, UntranslatedError

Translation = Callable[[Case, Settings], Plan]
Cached = Callable[[Case, Settings, Plan], Plan]


def with_cache(plain: Translation, addition: Cached) -> Translation:
    """A decoder with a cache: its plan without one, and what the cache adds."""

    def translation(case: Case, s: Settings) -> Plan:
        return addition(case, s, plain(case, s))

    return translation


def block_cache(case: Case, s: Settings, plan: Plan) -> Plan:
    """The later Fast-dLLM (lgxi24/AdaBlock-dLLM llada/generate_baseline.py) and AdaBlock's own loops, by the function
    that was called."""
    dual = "dual" in case.reference.get("function", "")
    return replace(plan, cache=cache.dual() if dual else cache.prefix())


def fast_dllm(case: Case, s: Settings, plan: Plan) -> Plan:
    """NVlabs/Fast-dLLM llada/generate.py ``generate_with_prefix_cache`` and ``..._dual_cache``; dParallel's copy."""
    plan = block_cache(case, s, plan)
    if any(case.mask_id in prompt for prompt in case.prompts) and case.error is None:
        raise UntranslatedError(
            "the prompt holds a mask, which the reference fills at some refresh and ours refuses (see prompt mask)"
        )
    fed = plan.block if plan.cache == cache.dual() else plan.new_tokens
    return replace(plan, faults=(Fault(("idle block call",), idle=fed),))


def d2_block(case: Case, s: Settings, plan: Plan) -> Plan:
    """Kamichanw/d2Cache src/cache/prefix_cache.py."""
    dual = s.get("use_dual", case.method == "d2_dualcache")
    moved = Fault(("last row stale",), cache=D2Shifted(dual))
    return replace(plan, cache=cache.dual() if dual else cache.prefix(), faults=(moved,))


def d2_features(case: Case, s: Settings, plan: Plan) -> Plan:
    """Its copy of dLLM-Cache, src/cache/dllm_cache.py."""
    policy = cache.dllm(prompt_interval=s.get("kp"), interval=s.get("kr"), ratio=s.get("rou"))
    return replace(plan, cache=policy)


def d2_rollout(case: Case, s: Settings, plan: Plan) -> Plan:
    """Its own cache, src/cache/d2cache.py."""
    # Where the record leaves its settings out they were these.
    settings = {"masks": s.get("current_k", 8), "rollout": s.get("rollout_p", 0.1), "gap": s.get("inflate_w", 4)}
    policy = cache.d2cache(**settings, sigma=s.get("sigma_cache", 10.0), compat="reference")
    if len(case.prompts) == 1:
        return replace(plan, cache=policy)
    # Rows open a block together, so it is over when the last of them has filled it.
    over = [0]
    for block in range(plan.blocks):
        first, end = plan.span(block)
        over.append(max(step for row in case.commit_step for step in row[first:end]) + 1)
    fed = tuple(tuple(case.tokens_per_call[first:end]) for first, end in pairwise(over))
    topped = ToppedUp(**vars(policy), fed=fed)
    return replace(plan, cache=policy, faults=(Fault(("batch topped up",), cache=topped),))


def features(case: Case, s: Settings, plan: Plan) -> Plan:
    """maomaocun/dLLM-cache with LLaDA's loop."""
    policy = cache.dllm(
        prompt_interval=s.get("prompt_interval_steps"),
        interval=s.get("gen_interval_steps"),
        ratio=s.get("transfer_ratio"),
    )
    return replace(plan, cache=policy)


def dkv_decode(case: Case, s: Settings, plan: Plan) -> Plan:
    """horseee/dKV-Cache generation_utils/llada_dkv_cache_decode.py."""
    if not s.get("enable_cache"):
        return plan
    return replace(plan, cache=cache.dkv_decode(interval=s.get("cache_reloading_step"), cadence="reference"))


def dkv_greedy(case: Case, s: Settings, plan: Plan) -> Plan:
    """Its llada_dkv_cache_greedy.py: the recorded random order is known beforehand."""
    s.only("enable_cache", True)
    policy = cache.dkv_greedy(interval=s.get("cache_reloading_step"), window=s.get("window_size", 0))
    blocks = case.extra.get("denoising_order_per_block", [])
    rows = range(len(case.prompts))
    orders = tuple(tuple(position for block in blocks for position in block[row]) for row in rows)
    ordered = Fault(("window order",), cache=InOrder(policy.interval, policy.window, orders))
    known = replace(plan.sampler, score=KnownOrder(orders))
    return replace(plan, sampler=known, draws=(), cache=policy, faults=(ordered,))


def dream_dkv(case: Case, s: Settings, plan: Plan) -> Plan:
    """Its generation_utils/dream_generation_utils.py."""
    kind, interval, shift = s.get("cache_type"), s.get("cache_steps"), s.get("shift_type")
    if not s.get("use_cache"):
        return replace(plan, cache=cache.none())
    if kind == "prefill":
        return replace(plan, cache=cache.dkv_prefill())
    if kind != "decoded":
        raise UntranslatedError(f"cache_type={kind!r}")
    kept = DreamDKV(shift, interval)
    name, sampler = f"dkv {shift}", plan.sampler
    if shift == "right":
        sampler = replace(sampler, transforms=(NoLogits(kept.notes),), selector=NaNFirst(kept.notes))
    faults = (Fault((name,), sampler, kept),)
    return replace(plan, cache=cache.dkv_decode(interval=interval), faults=faults)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run: generated positions, positions of a block, steps of a block."""

    new: int
    block: int
    steps: int


def dream_block(case: Case, s: Settings) -> Plan:
    """NVlabs/Fast-dLLM dream/model/generation_utils_block.py, and without a cache AdaBlock's copy of it."""
    s.only("temperature", 0.0)
    s.only("alg", "confidence_threshold", "entropy")
    new, steps, block = s.get("max_new_tokens"), s.get("steps"), s.get("block_length")
    dual, level, blocks = s.get("dual_cache"), s.get("threshold", 0.9), samplers.Fixed(block)
    proposer = Proposer(confidence="filtered", top_k=DREAM_TOP_K)
    if s.get("alg") == "entropy":
        budget = samplers.Uniform(None, steps)
        sampler = Sampler("entropy", samplers.NegativeEntropy(), samplers.TopK(), blocks, budget, proposer)
        fault = _dream_grid(sampler, bool(dual), Sizes(new, block, steps // (new // block)))
    else:
        selector = samplers.Threshold(level)
        sampler = Sampler("threshold", samplers.Probability(), selector, blocks, proposer=proposer)
        forced = replace(sampler, selector=FirstForced(selector))
        fault = Fault(("first token forced",), forced, Unshifted(bool(dual)))
    plan = Plan(sampler, new, block)
    if dual is None:
        return plan
    return replace(plan, cache=cache.dual() if dual else cache.prefix(), faults=(fault,))


def _dream_grid(sampler: Sampler, dual: bool, sizes: Sizes) -> Fault:
    """What Fast-dLLM makes of Dream's schedule."""
    rules, policy = ("first token forced", "grid per block"), Unshifted(dual)
    if sizes.steps == 1:
        heads = Heads(sizes.block)
        one = samplers.Uniform()
        left = replace(sampler, selector=FirstForced(sampler.selector), blocks=heads, stop=heads, budget=one)
        return Fault((*rules[:1], "block abandoned"), left, policy, sizes.block if dual else sizes.new)
    grid = BlockGrid(sizes.steps)
    return Fault(rules, replace(sampler, selector=FirstForced(sampler.selector), budget=grid), policy)


def dream_adablock(case: Case, s: Settings, plan: Plan) -> Plan:
    """lgxi24/AdaBlock-dLLM dream/model/generation_utils_adablock.py ``_sample_adablock_cache``."""
    forced = replace(plan.sampler, selector=FirstForced(plan.sampler.selector))
    fault = Fault(("first token forced",), forced, Unshifted(dual=True))
    return replace(plan, cache=cache.dual(), faults=(fault,))


@dataclass(frozen=True)
class LeftFirst(ScoreModifier):
    """Positions are filled from the left."""

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        return -view.positions.double(), state


def freedave(case: Case, s: Settings) -> Plan:
    """cychomatica/FreeDave generation/core.py: its sequential decoder and FreeDave over it, with its own prefix or dual
    cache. The reference ranks by float32 probabilities."""
    s.only("temperature", 0.0)
    s.only("token_per_step", None, 1)
    s.only("alg_temp", None, -1)
    leftmost = s.get("alg_temp") == -1
    if s.get("eager_acceptance_mode", False):
        raise UntranslatedError(
            "eager acceptance with a cache that recomputes everything at the border of a block is not lossless"
            " (reference bug 19); ours is refused there"
        )
    s.get("decoding_steps")  # the loop goes on until the block is full
    s.get("draft_mode")  # drafts along the batch or along the sequence: the same states
    new, block = s.get("max_gen_length"), s.get("block_length")
    blocks, threshold = samplers.Fixed(block), s.get("confidence_threshold")
    sampler = samplers.topk(blocks=blocks) if threshold is None else samplers.threshold(threshold, blocks=blocks)
    if leftmost:
        sampler = replace(sampler, modifiers=(LeftFirst(),))
    policy = cache.dual() if s.get("dual_cache", False) else cache.prefix()
    precise = replace(sampler, proposer=replace(sampler.proposer, precision="float64"))
    tie = Fault(("float32 tie",), sampler=precise)
    return Plan(sampler, new, block, cache=policy, draft_length=s.get("draft_steps"), faults=(tie,))
