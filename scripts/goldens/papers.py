"""Settings of the references that one paper's repository holds, whose records show the canvas after every call; see
:mod:`scripts.goldens.translate` and :mod:`scripts.goldens.stepwise`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cache
import samplers
from dlm.engine.sampler import Sampler
from scripts.goldens.cases import Case
from scripts.goldens.faults import AnyOfEqual, MaskNoted, PublishedDawn, PublishedRCR, TailFed
from scripts.goldens.plan import Fault, Plan, Settings

Translation = Callable[[Case, Settings], Plan]


def _blocks(s: Settings) -> dict[str, Any]:
    return {"blocks": samplers.Fixed(s.get("block_length"))}


def _ccd(case: Case, s: Settings) -> Sampler:
    """tonyckc/CCD-DLM-code model.py ``_sample_inference_lookahead``."""
    preset = samplers.ccd_ds if s.get("seek_mode") else samplers.ccd
    return preset(steps=s.get("steps"), expand=s.get("expand_ratio"))


def _credit(case: Case, s: Settings) -> Sampler:
    """A transcription of the equations of CreditDecoding (arXiv 2510.06133)."""
    return samplers.credit(s.get("threshold"), variant=s.get("variant"), **_blocks(s))


def _daedal(case: Case, s: Settings) -> Plan:
    """Li-Jinsong/DAEDAL models/LLaDA_DAEDAL.py ``generate`` as first released, for one row."""
    most, length = s.get("max_gen_length"), s.get("block_length")
    s.only("eos_token_id", 510)
    blocks = samplers.GrowingBlocks(
        initial=s.get("initial_gen_length"),
        length=length,
        step_size=s.get("expansion_factor"),
        window=s.get("eos_check_tokens"),
        enough=s.get("eos_confidence_threshold"),
        certain=s.get("expand_eos_confidence_threshold"),
        unsure=s.get("low_conf_threshold"),
    )
    sampler = samplers.threshold(s.get("high_conf_threshold"), blocks=blocks, precision="float64")
    return Plan(sampler, most, length, dtype="float64", breaks=("drops at the bound",))


def _dawn(case: Case, s: Settings) -> Plan:
    """lizhuo-luo/DAWN llada/generate.py with ``dawn=True``, and for Dream generation_utils.py ``_sample_block``."""
    low = s.get("tau_low", s.get("conf_threshold"))
    levels = {"induced": s.get("tau_induce"), "low": low, "edge": s.get("tau_edge")}
    levels["sink"] = s.get("tau_sink")
    new, block = s.layout()
    sampler = samplers.dawn(**levels, precision="float64", **_blocks(s))
    published = replace(sampler, selector=PublishedDawn(**levels))
    dtype: Any = "float64" if case.method == "dawn_dream" else "float32"
    return Plan(sampler, new, block, faults=(Fault(("prompt overwritten",), published),), dtype=dtype)


def _dcd(case: Case, s: Settings) -> Plan:
    """shuyingte/DCD decode_algorithm.py ``window_bidirectional_decode`` with a sliding window; its caches: none,
    dual-delayN and prefix-delayN."""
    s.only("decode_algo", "threshold")
    s.get("eos_id")
    size, new = s.get("initial_window_length"), s.get("generate_length")
    widest = s.get("max_window_length")
    sampler = samplers.dcd(s.get("decode_param"), length=size, widest=widest, precision="float64")
    plan = Plan(sampler, new, size, dtype="float64", breaks=("fills the tail",))
    kind, delayed, reach = s.get("cache_type").partition("-delay")
    if not delayed:
        return plan
    feed: dict[str, Any] = {"before": int(reach), "after": int(reach) if kind == "dual" else None, "trailing": True}
    feed["every_tokens"] = s.get("refresh_count")
    tail = Fault(("committed tail fed",), cache=TailFed(**feed, size=size, widest=widest))
    return replace(plan, cache=cache.dsb(**feed), faults=(tail,))


def _d3llm(case: Case, s: Settings) -> Plan:
    """hao-ai-lab/d3LLM d3llm_llada_generate_util.py ``generate_multi_block``, which commits the least uncertain
    position of all open blocks too, and for Dream d3llm_dream_generate_util.py ``_sample_multi_block``."""
    new, length = s.get("max_new_tokens"), s.get("block_size")
    s.get("decoded_token_threshold")  # the first block with a mask is past it
    s.get("eos_token_id")
    s.only("early_stop", True, False)
    sampler = samplers.d3llm(s.get("threshold"), length=length, begin=s.get("block_add_threshold"), precision="float64")
    if case.method != "d3llm_dream":
        selector = samplers.Union((sampler.selector, samplers.TopK()))
        sampler = replace(sampler, selector=selector, budget=samplers.Uniform(tokens_per_step=1))
    policy = None
    if case.method == "d3llm_cache":  # ``generate_multi_block_kv_cache``
        every = s.get("refresh_interval")
        policy = cache.delayed_prefix(s.get("cache_delay_iter"), length=length, every=every if every < 10000 else None)
    return Plan(sampler, new, length, dtype="float64", cache=policy, breaks=("fills the tail",))


def _dimple(case: Case, s: Settings) -> Sampler:
    """yu-rp/Dimple generation_utils.py, ``decoding_pipeline="dim"``."""
    return samplers.dimple(s.get("alg_p_threshold"), steps=s.get("steps"), eps=s.get("eps"))


def _entropy_bound(case: Case, s: Settings) -> Sampler:
    """NEUIR/PC-Sampler src/generate.py ``generate_with_eb_sampler``."""
    return samplers.eb(s.get("gamma"), blocks=samplers.Whole())


def _frechet(case: Case, s: Settings) -> Sampler:
    """Ringo-Star/FastdLLM_plusplus v1/llada/generate.py ``generate``."""
    return samplers.frechet(s.get("frechet_margin"), precision="float64", **_blocks(s))


def _hierarchy_remask(case: Case, s: Settings) -> Sampler:
    """inclusionAI/dInfer parallel_strategy.py ``get_transfer_index_hierarchy_remask``."""
    low, high, doubt = s.get("low_threshold"), s.get("threshold"), s.get("remask_threshold")
    return samplers.hierarchy_remask(low, high, doubt=doubt, first=True, **_blocks(s))


def _klass(case: Case, s: Settings) -> Sampler:
    """shkim0116/KLASS src/model/llada_klass.py, and for Dream dream_klass.py: one position where none is ready."""
    blocks: dict[str, Any] = _blocks(s) if "block_length" in s.values else {"blocks": samplers.Whole()}
    return samplers.klass(
        s.get("conf_threshold"),
        divergence=s.get("kl_threshold"),
        history=s.get("kl_history_length"),
        steps=s.get("steps"),
        precision="float64",
        **blocks,
    )


def _localleap(case: Case, s: Settings) -> Sampler:
    """LocalLeap's generate.py, and DAWN's copy of it."""
    levels = s.get("threshold"), s.get("relaxed_threshold"), s.get("radius")
    return samplers.localleap(*levels, precision="float64", stop_at_end=s.get("early_stop", False), **_blocks(s))


def _pc(case: Case, s: Settings) -> Sampler:
    """NEUIR/PC-Sampler src/generate.py ``generate_with_pc_sampler``, with the record's own token frequencies."""
    table = s.cases / f"pc_frequency_{case.checkpoint.removeprefix('packaged:')}.safetensors"
    rule = {"decay": s.get("lambd"), "cap": s.get("alpha"), "frequencies": str(table)}
    return samplers.pc(**rule, steps=s.get("steps"), **_blocks(s))


def _rcr(case: Case, s: Settings) -> Plan:
    """autonomousvision/mdpo src/mdlm_generation_utils.py with ``rcr=True``."""
    new, block = s.layout()
    sampler = samplers.rcr(steps=s.get("steps"), compat="reference", **_blocks(s))
    notes: dict[str, Any] = {}
    over_prompt = replace(sampler, selector=PublishedRCR(notes), reviser=MaskNoted(notes))
    return Plan(sampler, new, block, faults=(Fault(("prompt overwritten",), over_prompt),))


def _remdm(case: Case, s: Settings) -> Sampler:
    """guanghanwang/ReMDM-LLaDA eval_llada.py ``llada_remdm_sample``."""
    new, steps, block = s.get("mask_length"), s.get("sampling_steps"), s.get("block_size")
    rule = {"tokens_per_step": new // steps, "cycles": steps * block // new, "number": s.get("remdm_number")}
    return samplers.remdm(**rule, blocks=samplers.Fixed(block), precision="float64")


def _saber(case: Case, s: Settings) -> Sampler:
    """zhaoyMa/Saber decoding.py ``generate_with_saber``."""
    return samplers.saber(s.get("n"), compat="reference", **_blocks(s))


def _slowfast(case: Case, s: Settings) -> Sampler:
    """LiangrunFlora/Slow-Fast-Sampling sampling_utils/generate_slow_fast_sampling.py."""
    levels = {"deviation": s.get("std"), "low": s.get("low"), "high": s.get("high")}
    return samplers.slowfast(explore=s.get("k_exploration_steps"), window=s.get("window"), **levels, **_blocks(s))


def _wino(case: Case, s: Settings) -> Sampler:
    """Feng-Hong/WINO-DLLM LLaDA/decoding.py ``decoding_wino``."""
    return samplers.wino(s.get("threshold"), s.get("threshold_back"), precision="float64", **_blocks(s))


def _plain(translation: Callable[[Case, Settings], Sampler], *breaks: Any) -> Translation:
    """A sampler alone; the positions are those of ``gen_length`` or ``mask_length``."""

    def plan(case: Case, s: Settings) -> Plan:
        new = s.get("gen_length") or s.get("mask_length")
        return Plan(translation(case, s), new, s.get("block_length") or s.get("block_size") or new, breaks=breaks)

    return plan


def _sparse(case: Case, s: Settings) -> Plan:
    """OpenMOSS/Sparse-dLLM llada_generate.py and the cache of its modeling_llada.py, under LLaDA's loop."""
    new, block = s.layout()
    sampler = samplers.topk(steps=s.get("steps"), **_blocks(s))
    kept = {"keep": s.get("keep_ratio"), "kernel": s.get("kernel_size")}
    tie = Fault(("eviction tie",), cache=AnyOfEqual(**kept))
    return Plan(sampler, new, block, cache=cache.sparse(**kept), faults=(tie,))


def _vicinity(case: Case, s: Settings) -> Plan:
    """inclusionAI/dInfer generate_uniform.py ``VicinityCacheIteration``, plain threshold rule."""
    new, block = s.layout()
    sampler = samplers.threshold(s.get("threshold"), precision="float64", **_blocks(s))
    policy = cache.vicinity(
        before=s.get("prefix_look"),
        after=s.get("after_look"),
        warmup=s.get("warmup_steps"),
        every=s.get("cache_update_freq"),
        compat="reference",
    )
    return Plan(sampler, new, block, cache=policy)


TRANSLATIONS: tuple[tuple[str, Translation], ...] = (
    ("ccd", _plain(_ccd)),
    ("ccd_ds", _plain(_ccd, "rewrites", "leaves masks")),
    ("credit_paper", _plain(_credit)),
    ("daedal", _daedal),
    ("dawn", _dawn),
    ("dawn_dream", _dawn),
    ("dawn_union", _dawn),
    ("d3llm", _d3llm),
    ("d3llm_cache", _d3llm),
    ("d3llm_dream", _d3llm),
    ("dcd*", _dcd),
    ("dimple", _plain(_dimple)),
    ("eb_pc", _plain(_entropy_bound)),
    ("frechet", _plain(_frechet)),
    ("hierarchy_remask", _plain(_hierarchy_remask)),
    ("klass", _plain(_klass, "rewrites", "leaves masks")),
    ("klass_dream", _plain(_klass)),
    ("localleap*", _plain(_localleap)),
    ("pc", _plain(_pc)),
    ("rcr", _rcr),
    ("remdm", _plain(_remdm)),
    ("saber", _plain(_saber, "overshoots")),
    ("slowfast", _plain(_slowfast)),
    ("sparse_dllm*", _sparse),
    ("vicinity", _vicinity),
    ("wino", _plain(_wino)),
)
