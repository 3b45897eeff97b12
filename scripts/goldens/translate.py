"""A reference's settings in our terms: one small function per reference, found by the method's name.

To add a method: write a function that reads the settings it understands and returns a :class:`Plan`, and
enter it in ``TRANSLATIONS``. A setting that no line reads makes the case "no translation yet", so nothing is
ignored by accident.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import samplers
from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from scripts.goldens import blocks, cached, learned, papers, published
from scripts.goldens.cached import with_cache
from scripts.goldens.cases import Case
from scripts.goldens.plan import DREAM_TOP_K, Draw, Plan, Settings, UntranslatedError


def _llada_draws(s: Settings, temperature: float) -> tuple[Draw, ...]:
    draws: tuple[Draw, ...] = ("gumbel",) if temperature > 0 else ()
    return (*draws, "order") if s.get("remasking", "low_confidence") == "random" else draws


def _edited_ends(case: Case) -> tuple[int, ...] | None:
    """The ids that stand for end of text and end of turn where the reference's own were replaced
    (``edit``)."""
    edit = case.reference.get("edit", "")
    pairs = [re.search(rf"{original}->(\d+)", edit) for original in (126081, 126348)]
    found = tuple(int(pair.group(1)) for pair in pairs if pair)
    return found or None


def _llada(case: Case, s: Settings) -> Plan:
    """ML-GSAI/LLaDA generate.py (arXiv 2502.09992); EOSER's plain loop is the same."""
    new, block = s.layout()
    steps, temperature = s.get("steps"), s.get("temperature", 0.0)
    s.only("mask_id", case.mask_id)
    s.only("remasking", "low_confidence", "random")
    preset = samplers.random if s.get("remasking") == "random" else samplers.topk
    sampler = preset(
        steps=steps,
        blocks=samplers.Fixed(block),
        temperature=temperature,
        guidance=s.get("cfg_scale", 0.0),
        ban_end=s.get("logits_eos_inf", False),
        suppress_end="reference" if s.get("confidence_eos_eot_inf", False) else False,
    )
    calls = steps // max(1, new // block)
    return Plan(sampler, new, block, calls, draws=_llada_draws(s, temperature), end_ids=_edited_ends(case))


def _fast_dllm(case: Case, s: Settings) -> Plan:
    """NVlabs/Fast-dLLM llada/generate.py ``generate`` and its later copy with ``factor`` (arXiv 2505.22618), no cache.

    Float64 confidences; a block ends as soon as it is full, so that steps only say how many tokens a step
    commits.
    """
    s.only("cache", "none", "prefix", "dual")
    s.only("remasking", "low_confidence")
    new, block = s.layout()
    temperature = s.get("temperature", 0.0)
    shared: dict[str, Any] = {
        "blocks": samplers.Fixed(block),
        "temperature": temperature,
        "precision": "float64",
    }
    factor, threshold, steps = s.get("factor"), s.get("threshold"), s.get("steps")
    if factor is not None:
        sampler = samplers.factor(factor, compat="reference", **shared)
    elif threshold is not None:
        sampler = samplers.threshold(threshold, **shared)
    else:
        sampler = samplers.topk(steps=steps, **shared)
    return Plan(sampler, new, block, draws=_llada_draws(s, temperature))


_D2_SCORES: dict[str, samplers.Probability | samplers.Margin | samplers.NegativeEntropy] = {
    "maskgit_plus": samplers.Probability(),
    "topk_margin": samplers.Margin(),
    "entropy": samplers.NegativeEntropy(),
}


def _d2_vanilla(case: Case, s: Settings) -> Plan:
    """Kamichanw/d2Cache src/generation/vanilla.py, no cache: at least ``num_transfer_tokens`` a step, more
    where the threshold or the factor allows it. Candidates are cut to the block on both sides."""
    s.only("strategy", "vanilla")
    s.only("temperature", 0.0)
    new, block = s.layout()
    alg, least = s.get("alg", "maskgit_plus"), s.get("num_transfer_tokens", 1)
    if alg not in _D2_SCORES:
        raise UntranslatedError(f"alg={alg!r}")
    factor, threshold = s.get("factor"), s.get("threshold")
    score, blocks = _D2_SCORES[alg], samplers.Fixed(block)
    name = {"topk_margin": "margin", "entropy": "entropy"}.get(alg, "topk")
    if factor is not None:
        sampler = Sampler("factor", score, samplers.Factor(factor, compat="d2cache", minimum=least), blocks)
    elif threshold is not None:
        sampler = Sampler("threshold", score, samplers.Threshold(threshold, minimum=least), blocks)
    else:
        sampler = Sampler(name, score, samplers.TopK(), blocks, samplers.Uniform(tokens_per_step=least))
    return Plan(sampler, new, block, left_bound=True)


_DREAM_PRESETS: dict[str, Callable[..., Sampler]] = {
    "entropy": samplers.dream_entropy,
    "maskgit_plus": samplers.dream_maskgit_plus,
    "topk_margin": samplers.dream_margin,
    "origin": samplers.dream_origin,
}


def _dream(case: Case, s: Settings) -> Plan:
    """Dream's generation_utils.py (arXiv 2508.15487): the whole canvas, ``steps`` forwards, truncated numbers."""
    new, steps, alg = s.get("max_new_tokens"), s.get("steps"), s.get("alg")
    if alg not in _DREAM_PRESETS:
        raise UntranslatedError(f"alg={alg!r}")
    temperature, alg_temp = s.get("temperature", 0.0), s.get("alg_temp") or 0.0
    own: dict[str, Any] = {"alg_temp": alg_temp, "compat": "reference"} if alg != "origin" else {}
    sampler = _DREAM_PRESETS[alg](
        steps=steps,
        eps=s.get("eps", 1e-3),
        temperature=temperature,
        top_p=s.get("top_p"),
        top_k=s.get("top_k", DREAM_TOP_K),
        **own,
    )
    draws: list[Draw] = ["origin"] if alg == "origin" else []
    draws += ["categorical"] if temperature > 0 else []
    draws += ["alg_temp"] if alg_temp > 0 and alg != "origin" else []
    return Plan(sampler, new, new, steps, draws=tuple(draws), alg_temp=alg_temp)


def _dream_confidence_threshold(case: Case, s: Settings) -> Plan:
    """Fast-dLLM's addition to Dream's loop: everything above the threshold, but no more than steps allow on
    average."""
    s.only("temperature", 0.0)
    s.only("alg", "confidence_threshold")
    s.only("alg_temp", None, 0, 0.0)
    s.get("eps")  # the grid of the other rules; this one does not use it
    new = s.get("max_new_tokens")
    selector = samplers.Threshold(s.get("threshold", 0.9), capped=True)
    budget, proposer = (
        samplers.CarryOver(s.get("steps")),
        Proposer(confidence="filtered", top_k=s.get("top_k", DREAM_TOP_K)),
    )
    sampler = Sampler("threshold", samplers.Probability(), selector, samplers.Whole(), budget, proposer)
    return Plan(sampler, new, new)


Translation = Callable[[Case, Settings], Plan]


# First match wins; patterns are shell style.
TRANSLATIONS: tuple[tuple[str, Translation], ...] = (
    *blocks.TRANSLATIONS,
    *published.TRANSLATIONS,
    *papers.TRANSLATIONS,
    ("llada_*", _llada),
    ("eoserrepo_base", _llada),
    ("fastdllm_none", _fast_dllm),
    ("fastdllm2_none", _fast_dllm),
    ("fastdllm_prefix", with_cache(_fast_dllm, cached.fast_dllm)),
    ("fastdllm_dual", with_cache(_fast_dllm, cached.fast_dllm)),
    ("fastdllm2_prefix", with_cache(_fast_dllm, cached.block_cache)),
    ("fastdllm2_dual", with_cache(_fast_dllm, cached.block_cache)),
    ("d2_vanilla*", _d2_vanilla),
    ("d2_prefixcache", with_cache(_d2_vanilla, cached.d2_block)),
    ("d2_dualcache", with_cache(_d2_vanilla, cached.d2_block)),
    ("d2_dllmcache", with_cache(_d2_vanilla, cached.d2_features)),
    ("d2_d2cache", with_cache(_d2_vanilla, cached.d2_rollout)),
    ("dllmcache", with_cache(_llada, cached.features)),
    ("dkv_decode", with_cache(_llada, cached.dkv_decode)),
    ("dkv_greedy", with_cache(_llada, cached.dkv_greedy)),
    ("freedave*", cached.freedave),
    ("l2p*", learned.learn2pd),
    ("predict_eot", learned.predict_end),
    ("dream_confidence_threshold", _dream_confidence_threshold),
    ("dream_entropy", _dream),
    ("dream_maskgit_plus", _dream),
    ("dream_topk_margin", _dream),
    ("dream_origin", _dream),
    ("dream_dkv", with_cache(_dream, cached.dream_dkv)),
    ("dreamblock_*", cached.dream_block),
)

# Collections mix methods; there the function that was called tells which one it is.
COLLECTIONS = ("edge",)
FUNCTIONS: dict[tuple[str, str, str], str] = {
    ("NVlabs/Fast-dLLM", "llada/generate.py", "generate"): "fastdllm_none",
    ("NVlabs/Fast-dLLM", "llada/generate.py", "generate_with_prefix_cache"): "fastdllm_prefix",
    ("NVlabs/Fast-dLLM", "llada/generate.py", "generate_with_dual_cache"): "fastdllm_dual",
    ("NVlabs/Fast-dLLM", "dream/model/generation_utils.py", "_sample"): "dream_{alg}",
    ("NVlabs/Fast-dLLM", "dream/model/generation_utils_block.py", "_sample"): "dreamblock_dual",
    ("maomaocun/dLLM-cache", "utils/generate_function.py", "generate"): "dllmcache",
    ("lgxi24/AdaBlock-dLLM", "llada/generate_baseline.py", "generate"): "fastdllm2_none",
    ("AdaBlock-dLLM", "llada/generate_baseline.py", "generate"): "fastdllm2_none",
    ("ML-GSAI/LLaDA", "generate.py", "generate"): "llada_base",
    ("Kamichanw/d2Cache", "src/generation/vanilla.py", "vanilla_generate"): "d2_vanilla",
}


def _method_of(case: Case) -> str:
    if case.method not in COLLECTIONS:
        return case.method
    called = tuple((case.reference.get(name) or "?").split()[0] for name in ("repo", "file", "function"))
    for function, method in FUNCTIONS.items():
        if called == function:
            return method.format(alg=case.settings.get("alg"))
    return case.method


def translate(case: Case, extra: Path = Path()) -> Plan:
    """Our sampler and the reference's loop for a case; ``extra`` is the folder of further inputs.

    Raises:
        UntranslatedError: the method, or one of its settings, has no translation yet.
    """
    method = _method_of(case)
    for pattern, function in TRANSLATIONS:
        if fnmatchcase(method, pattern):
            settings = Settings(case.settings, extra, case.folder)
            plan = function(case, settings)
            settings.close()
            return plan
    raise UntranslatedError("no translation yet")
