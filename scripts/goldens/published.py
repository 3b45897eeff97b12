"""Settings of the references behind the adaptive samplers; see :mod:`scripts.goldens.translate`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import samplers
from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from samplers.blocks.adaptive import AdaptiveBlocks
from scripts.goldens import cached
from scripts.goldens.cached import with_cache
from scripts.goldens.cases import Case
from scripts.goldens.plan import DREAM_TOP_K, Plan, Settings, UntranslatedError

_PROPHET_DEFAULT = {"early": 7.5, "mid": 5.0, "late": 2.5}


def _prophet(case: Case, s: Settings) -> Plan:
    """pixeli99/Prophet generate_earlyexit.py (arXiv 2508.19982): LLaDA's loop with an exit over five positions."""
    s.only("temperature", 0.0)
    s.only("analyze_gap", True)
    s.only("answer_window", "hard-coded 5")
    new, block = s.layout()
    steps, start = s.get("steps"), s.get("answer_start_rel")
    gaps = s.get("early_exit_thresholds")
    pinned = {int(place): token for place, token in (s.get("constraints") or {}).items()}
    sampler = samplers.prophet(
        answer_start=start,
        steps=steps,
        blocks=samplers.Fixed(block),
        **(gaps if isinstance(gaps, dict) else _PROPHET_DEFAULT),
    )
    return Plan(sampler, new, block, steps // max(1, new // block), pinned=pinned)


def _adablock(case: Case, s: Settings) -> Plan:
    """lgxi24/AdaBlock-dLLM llada/generate_adablock.py (arXiv 2509.26432), no cache."""
    s.only("cache", "none", "prefix", "dual")
    s.only("temperature", 0.0)
    new, length, level = s.get("gen_length"), s.get("init_block_length"), s.get("delimiter_threshold")
    sampler = samplers.adablock(
        s.get("threshold"),
        length=length,
        delimiters=s.get("delimiter_ids"),
        delimiter_threshold=2.0 if level == "inf" else level,
        precision="float64",
    )
    return Plan(sampler, new, length, spans=_reported_blocks(case))


def _dream_adablock(case: Case, s: Settings) -> Plan:
    """The same for Dream (dream/model/generation_utils_adablock.py), delimiters as in its code."""
    s.only("dual_cache", False, True)
    s.only("temperature", 0.0)
    s.only("alg", "confidence_threshold")
    s.get("steps")  # bounds the loop; the threshold decides how many are committed
    new, length = s.get("max_new_tokens"), s.get("block_length")
    listed = re.search(r"only ([\d,]+) are", s.get("delimiter_ids"))
    if listed is None:
        raise UntranslatedError("delimiter_ids")
    delimiters = tuple(int(i) for i in listed[1].split(","))
    blocks = AdaptiveBlocks(length, delimiters, s.get("delimiter_threshold"))
    selector, proposer = samplers.Threshold(s.get("threshold")), Proposer(confidence="filtered", top_k=DREAM_TOP_K)
    sampler = Sampler("adablock", samplers.Probability(), selector, blocks, proposer=proposer)
    return Plan(sampler, new, length, spans=_reported_blocks(case))


def _reported_blocks(case: Case) -> tuple[int, ...] | None:
    sizes = (case.reported or {}).get("block_history")
    return tuple(sizes) if sizes else None


def _eoser(case: Case, s: Settings) -> Plan:
    """yjyddq/EOSER-ASS-RL eval/generate.py ``eoser_generate`` (arXiv 2509.23924)."""
    s.only("temperature", 0.0)
    new, block = s.layout()
    steps = s.get("steps")
    sampler = samplers.eoser(
        low=s.get("eos_min_gamma"),
        high=s.get("eos_max_gamma"),
        steps=steps,
        compat="reference",
        blocks=samplers.Fixed(block),
    )
    return Plan(sampler, new, block, max(1, steps // (new // block)), end_ids=(s.get("eos_id"),))


def _ass(case: Case, s: Settings) -> Plan:
    """``ass_generate`` and ``eoser_ass_generate`` of the same file."""
    s.only("temperature", 0.0)
    new, count, steps = s.get("gen_length"), s.get("block_num"), s.get("steps")
    full = new.bit_length() - 1
    if steps != full and case.error is None:
        raise UntranslatedError(f"steps={steps} where the schedule has {full}")
    low, high, end = s.get("eos_min_gamma", 0.01), s.get("eos_max_gamma", 1.0), s.get("eos_id")
    if end is None:
        sampler = samplers.ass(block_count=count)
    else:
        sampler = samplers.eoser_ass(low=low, high=high, block_count=count)
    return Plan(sampler, new, new, spans=_ascending(new, count), end_ids=None if end is None else (end,))


def _ascending(new: int, count: int) -> tuple[int, ...]:
    """Sizes of the ascending blocks (arXiv 2509.23924)."""
    steps = new.bit_length() - 1
    if count == 1:
        return (new,)
    middle = [2 ** (steps - count + i) for i in range(1, count - 1)]
    first = 2 ** (steps - count + 1) - 1
    return (first, *middle, new - first - sum(middle))


def _dparallel(case: Case, s: Settings) -> Plan:
    """czg1225/dParallel LLaDA/generate.py (arXiv 2509.26488), no cache."""
    s.only("temperature", 0.0)
    s.get("steps")  # only its divisibility is checked
    new, block = s.layout()
    sampler = samplers.entropy_threshold(s.get("threshold"), blocks=samplers.Fixed(block), precision="float64")
    return Plan(sampler, new, block)


def _dinfer(case: Case, s: Settings) -> Plan:
    """inclusionAI/dInfer BlockWiseDiffusionLLM without a key/value cache."""
    for name, value in (("temperature", 0.0), ("kv_cache", None)):
        s.only(name, value)
    s.get("credit")  # a remark on the decoder's defaults
    s.get("maximum_unroll")  # how often the loop forwards before it looks whether the block is full
    new, block = s.layout()
    early = s.get("early_stop")
    options: dict[str, Any] = {"blocks": samplers.Fixed(block), "stop_at_end": True}
    name, values = re.match(r"([a-z]+)(.*)", s.get("decoder")).groups()  # type: ignore[union-attr]
    if name == "threshold":
        sampler = samplers.threshold(float(values), **options)
        sampler = replace(sampler, selector=samplers.Threshold(float(values), compat="dinfer"))
    elif name == "credit":
        rule = samplers.Threshold(float(values), compat="dinfer")
        sampler = samplers.credit(variant="dinfer", selector=rule, **options)
    else:
        high, low = values.split("_") if name == "hier" else (None, values.removeprefix("_"))
        sampler = samplers.hierarchy(float(low), None if high is None else float(high), first=False, **options)
    return Plan(sampler, new, block, stops_at_end=not early)


def _d2(case: Case, s: Settings) -> Plan:
    """Kamichanw/d2Cache: entropy bound, KLASS and certainty prior around its vanilla loop, no cache."""
    s.only("temperature", 0.0)
    s.only("strategy", "vanilla", "klass")
    new, block = s.layout()
    least, blocks = s.get("num_transfer_tokens", 1), samplers.Fixed(block)
    if s.get("gamma") is not None:
        sampler = samplers.eb(s.get("gamma"), ranking="probability", minimum=least, compat="d2cache", blocks=blocks)
        return Plan(sampler, new, block, left_bound=True)
    if s.get("sigma") is not None:
        sampler = samplers.certainty_prior(s.get("sigma"), tokens_per_step=least, blocks=blocks)
        return Plan(sampler, new, block, left_bound=True)
    sampler = samplers.klass(
        s.get("threshold"),
        divergence=s.get("kl_threshold"),
        history=s.get("kl_history_length"),
        tokens_per_step=least,
        compat="d2cache",
        blocks=blocks,
        precision="float64",
    )
    return Plan(sampler, new, block, left_bound=True, dtype="float64")


def _broken_wino(case: Case, s: Settings) -> Plan:
    """d2Cache's WINO at the recorded commit narrows the block while it works on it."""
    raise UntranslatedError(
        "a record of a broken loop: it shrinks the block mask in place (src/generation/utils.py:196, 202), so remasked"
        " positions leave the block and masks stay in the answer; our WINO is checked against its published example"
    )


Translation = Callable[[Case, Settings], Plan]

TRANSLATIONS: tuple[tuple[str, Translation], ...] = (
    ("prophet", _prophet),
    ("adablock_none", _adablock),
    ("dream_adablock_none", _dream_adablock),
    ("dream_adablock_dual", with_cache(_dream_adablock, cached.dream_adablock)),
    ("adablock_*", with_cache(_adablock, cached.block_cache)),
    ("dparallel_entropy_prefix", with_cache(_dparallel, cached.fast_dllm)),
    ("dparallel_entropy_dual", with_cache(_dparallel, cached.fast_dllm)),
    ("eoser", _eoser),
    ("ass", _ass),
    ("eoser_ass", _ass),
    ("dparallel_entropy_none", _dparallel),
    ("dinfer_*", _dinfer),
    ("d2_eb_sampler", _d2),
    ("d2_klass", _d2),
    ("d2_certainty_prior", _d2),
    ("d2_wino", _broken_wino),
)
