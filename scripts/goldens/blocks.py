"""Block-diffusion models: their loops in our terms, and the verdict on their records.

The published loops feed a finished block once more to keep its keys; our cache does that in the first step of the next
block. So what is compared is counted in denoising calls (``d``), and those that verify drafts (``v``); a call that only
stores (``p``, ``s``) is one of ours where it also commits a token (Fast-dLLM v2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import cache
import dlm
import samplers
from dlm.api import Generation
from dlm.drafting import FreeDave
from dlm.engine.interfaces import Cache, LogitTransform
from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from dlm.engine.step import LogitRows
from dlm.models.backbone import sees
from dlm.models.language_model import LanguageModel
from samplers.presets.blockwise import Strategy
from scripts.goldens.cases import Case
from scripts.goldens.draws import cut
from scripts.goldens.explain import Verdict
from scripts.goldens.law import Law
from scripts.goldens.plan import Draw, Plan, Settings, UntranslatedError

_STRATEGIES: dict[str, Strategy] = {
    "low_confidence_static": "static", "low_confidence_dynamic": "dynamic", "sequential": "sequential",
    "entropy_bounded": "entropy_bounded",
}  # fmt: skip


@dataclass(frozen=True)
class Tempered(LogitTransform):
    """Logits over a temperature, for references that rank by the tempered distribution and were made to take its
    maximum."""

    temperature: float

    def step(self, logits: Tensor, at: LogitRows, state: None) -> tuple[Tensor, None]:
        return logits / self.temperature, state


def _sdar(case: Case, s: Settings) -> Plan:
    """JetAstra/SDAR generate.py (arXiv 2510.06303), and its port in d2Cache. Draws were replaced by the maximum."""
    block, tau, end = s.get("block_length"), s.get("confidence_threshold"), s.get("stopping_criteria_idx")
    sampler = samplers.sdar(
        _STRATEGIES[s.get("remasking_strategy")], threshold=0.85 if tau is None else tau,
        gamma=s.get("eb_threshold") or 0.35, steps_per_block=s.get("denoising_steps"),
    )  # fmt: skip
    if s.get("stop_until_eot", False):
        end = [s.get("eos_token_id")]
    s.get("eos_token_id")
    top_k, top_p, temperature = s.get("top_k"), s.get("top_p"), s.get("temperature")
    proposer = Proposer(confidence="filtered", top_k=top_k or None, top_p=None if top_p == 1 else top_p)
    if case.seed is not None:
        proposer = replace(proposer, temperature=temperature)
    tempered = (Tempered(temperature),) if temperature not in (0.0, 1.0) else ()
    stop = samplers.EndBlock() if end else None
    sampler = replace(sampler, proposer=proposer, transforms=tempered, stop=stop)
    if top_k == 1:
        raise UntranslatedError("with one candidate every confidence is 1: the reference leaves the order to topk")
    return _plan(case, sampler, block, _whole(case, s.get("gen_length"), block), tuple(end) if end else None)


def _fast_dllm_v2(case: Case, s: Settings) -> Plan:
    """Fast-dLLM v2's own ``generate`` (arXiv 2509.26328): sub-blocks, the first token of a block alone."""
    block, end, new = s.get("block_size"), s.get("stop_token"), s.get("max_new_tokens")
    (prompt,) = case.prompts
    if len(prompt) == block or block > 32 or new < block:
        raise UntranslatedError("a fault of the reference: the prompt is not seen, or blocks are masked as others")
    inside = cache.block_causal(sub_blocks=True) if s.get("use_block_cache") else None
    s.get("mask_id")
    drawn = _drawn(case, s)
    tau, sub = s.get("threshold"), s.get("small_block_size")
    sampler = samplers.fast_dllm_v2(
        1.01 if tau == 1 else tau, first_alone=block, blocks=samplers.Aligned(sub), stop_at_end="reached", **drawn
    )
    return _plan(case, sampler, block, new - len(prompt) % block + 1, end_ids=(end,), cache=inside)


def _llada2(case: Case, s: Settings) -> Plan:
    """LLaDA2.0's ``generate`` (arXiv 2512.15745): all above the threshold, and never fewer than the schedule says."""
    drawn = _drawn(case, s)
    block, new, steps = s.get("block_length"), s.get("gen_length"), s.get("steps")
    steps = min(steps, new // s.get("minimal_topk"))
    s.get("mask_id")
    early = s.get("eos_early_stop")
    sampler = samplers.llada2(
        s.get("threshold"), steps_per_block=min(steps, block), stop_at_end="reached" if early else True, **drawn
    )
    return _plan(case, sampler, block, _whole(case, new, block), (s.get("eos_id"),))


def _llada2_edit(case: Case, s: Settings) -> Plan:
    """LLaDA2.1's ``generate`` (arXiv 2602.08676): tokens of the open block may be replaced."""
    s.only("temperature", 0.0)
    for name in ("steps", "minimal_topk", "mask_id"):  # its loop reads none of them
        s.get(name)
    block, new, early = s.get("block_length"), s.get("gen_length"), s.get("eos_early_stop")
    sampler = samplers.llada2(
        s.get("threshold"), editing=s.get("editing_threshold"), minimum=s.get("num_to_transfer"),
        most_edits=s.get("max_post_steps"), stop_at_end=early,
    )  # fmt: skip
    return _plan(case, sampler, block, _whole(case, new, block), (s.get("eos_id"),))


def _freedave(case: Case, s: Settings) -> Plan:
    """cychomatica/FreeDave generation/core.py on SDAR and TraDo."""
    s.only("temperature", 0.0)
    s.only("early_exit", False)
    for name in ("decoding_steps", "mask_token_id", "pad_token_id", "draft_mode", "eos_token_id", "max_gen_length"):
        s.get(name)
    block, tau = s.get("block_length"), s.get("confidence_threshold")
    strategy: Strategy = "sequential" if s.get("alg_temp") == -1 else "static" if tau is None else "dynamic"
    if strategy == "sequential" and tau is not None:
        raise UntranslatedError("from left to right above a threshold")
    sampler = samplers.sdar(strategy, threshold=tau or 0.85)
    plan = _plan(case, sampler, block, len(case.gen_ids[0]), draft_length=s.get("draft_steps"))
    return replace(plan, acceptance="eager" if s.get("eager_acceptance_mode", False) else "standard")


def _drawn(case: Case, s: Settings) -> dict[str, Any]:
    """The options of a sampler that draws, of a record with a seed; without one the maximum was taken."""
    top_k, top_p, temperature = s.get("top_k"), s.get("top_p"), s.get("temperature")
    if case.seed is None:
        return {}
    return {"temperature": temperature, "top_k": top_k or None, "top_p": None if top_p == 1 else top_p}


def _whole(case: Case, new: int, block: int) -> int:
    """Generated positions up to the end of the last block, which the references decode, too."""
    (prompt,) = case.prompts
    return -(-(len(prompt) + new) // block) * block - len(prompt)


def _refused(why: str) -> Callable[[Case, Settings], Plan]:
    def refuse(case: Case, s: Settings) -> Plan:
        raise UntranslatedError(why)

    return refuse


def _plan(case: Case, sampler: Sampler, block: int, new: int, end_ids: Any = None, **more: Any) -> Plan:
    draws: tuple[Draw, ...] = () if case.seed is None or case.error is not None else ("categorical",)
    return Plan(sampler, new, block, end_ids=end_ids, attention_block=block, draws=draws, **more)


TRANSLATIONS = (
    ("sdar_*", _sdar),
    ("fastdllmv2*", _fast_dllm_v2),
    ("llada2_edit*", _llada2_edit),
    ("llada22_*", _refused("LLaDA2.2 is refused: experts chosen by blocks, tokens that move")),
    ("diffusion_gemma", _refused("DiffusionGemma is refused: it has no mask")),
    ("llada2*", _llada2),
    ("freedave*_block*", _freedave),
)


def judge(case: Case, model: LanguageModel, plan: Plan) -> Verdict:
    """Our run, with the exact cache and without one, or with the reference's own, against the record."""
    if plan.draws:
        wrong = _unlikely(case, model, plan)
        return Verdict("matched") if wrong is None else Verdict("unexplained", details=(wrong,))
    run = _run(case, model, plan, plan.cache or cache.block_causal())
    if plan.cache is None and _shown(_run(case, model, plan, cache.none())) != _shown(run):
        return Verdict("unexplained", details=("the runs with and without the cache differ",))
    if case.error is not None:
        whole = case.mask_id not in run.tokens
        return Verdict("explained", ("reference raised",)) if whole else Verdict("unexplained", details=("masks left",))
    apart = _apart(case, run, plan)
    if not apart:
        return Verdict("matched")
    if (rule := _rule(case, run, plan)) is not None:
        return Verdict("explained", (rule,))
    return Verdict("unexplained", details=tuple(apart))


def _run(case: Case, model: LanguageModel, plan: Plan, policy: Cache) -> Generation:
    drafter = None if plan.draft_length is None else FreeDave(plan.draft_length, acceptance=plan.acceptance)
    (prompt,) = case.prompts
    return dlm.generate(
        model, [prompt], sampler=plan.sampler, cache=policy, drafter=drafter, max_new_tokens=plan.new_tokens
    )[0]


def _unlikely(case: Case, model: LanguageModel, plan: Plan) -> str | None:
    """What speaks against a record with draws being an outcome of our rule; None: nothing. Every token is looked up in
    the distribution of its call, and what a call commits beside others must be as sure as the threshold."""
    law, proposer = Law(plan), plan.sampler.proposer
    (prompt,), (tokens,), (steps,) = case.prompts, case.gen_ids, case.commit_step
    block, shift = plan.attention_block or 1, model.description.shift
    size = -(-(len(prompt) + len(tokens)) // block) * block
    columns = torch.arange(size)
    seen = sees(columns[None], columns, block, torch.ones(1, size, dtype=torch.bool))
    for call in sorted({*steps} - {-1}):
        known = [token if 0 <= step < call else case.mask_id for token, step in zip(tokens, steps, strict=True)]
        canvas = (prompt + known + [case.mask_id] * block)[:size]
        with torch.no_grad():
            logits = model.backbone.head(model.backbone.hidden(torch.tensor([canvas]), None, seen)[0])
        logits = torch.cat([logits[:shift], logits[: size - shift]]).float()
        logits[:, case.mask_id] = -torch.inf
        new = {len(prompt) + i: tokens[i] for i, step in enumerate(steps) if step == call}
        if (wrong := law.tokens(call, new, logits, {})) is not None:
            return wrong
        probs = {p: float(cut(logits[p : p + 1].double(), proposer).softmax(dim=1)[0, t]) for p, t in new.items()}
        if len(new) > 1 and min(probs.values()) < _threshold(case) - 1e-4:
            return f"call {call}: {probs} are committed together"
    return law.close()


def _threshold(case: Case) -> float:
    return float(case.settings.get("confidence_threshold") or case.settings["threshold"])


def _shown(run: Generation) -> tuple[list[int], list[int], int]:
    return run.tokens, run.commit_step, run.counts.forwards


def _calls(case: Case) -> list[int]:
    """For every call of the record, which of ours it is."""
    kinds: str = case.call_kinds
    (prompt,) = case.prompts
    ours = "dvs" if case.method.startswith("fastdllmv2") else "dv"
    # A prompt of whole blocks is stored by a call that also answers for the first position behind it.
    answers = ours == "dvs" and len(prompt) % case.settings["block_size"] == 0
    places, count = [], 0
    for kind in kinds:
        places.append(count)
        count += kind in ours or (kind == "p" and answers)
    return [*places, count]


def _apart(case: Case, run: Generation, plan: Plan) -> list[str]:
    """Where our run and the record differ: in tokens, in the call of each, in the number of calls."""
    apart, calls = [], _calls(case)
    (tokens,), steps = case.gen_ids, _last_steps(case, plan)
    for place, (token, step) in enumerate(zip(tokens, steps, strict=True)):
        own = run.tokens[place], run.commit_step[place]
        if token == case.mask_id:  # left open by a stop rule; ours fills what is left
            apart += [f"generated position {place}: committed, recorded open"] if own[1] >= 0 else []
        elif own[0] != token:
            apart.append(f"generated position {place}: token {own[0]}, recorded {token}")
        elif plan.draft_length is None and own[1] != calls[step]:
            apart.append(f"generated position {place}: step {own[1]}, recorded {calls[step]}")
    if run.counts.forwards != calls[-1]:
        apart.append(f"{run.counts.forwards} forwards, recorded {calls[-1]}")
    stored = sum(kind in "ps" for kind in case.call_kinds)
    if case.method.startswith(("sdar", "freedave")) and run.counts.store_forwards != stored:
        apart.append(f"{run.counts.store_forwards} forwards for keys alone, recorded {stored}")
    return apart


def _last_steps(case: Case, plan: Plan) -> list[int]:
    """The call that committed each generated position, or that edited it last."""
    steps, (prompt,) = list(case.commit_step[0]), case.prompts
    if plan.sampler.selector.rewrites:
        for call, _, position in case.rewrites:
            steps[position - len(prompt)] = max(call, steps[position - len(prompt)])
    return steps


def _rule(case: Case, run: Generation, plan: Plan) -> str | None:
    """The rule that explains a difference; None: none does."""
    calls = _calls(case)
    (tokens,), (steps,) = case.gen_ids, case.commit_step
    if case.rewrites and not plan.sampler.selector.rewrites:
        # Everything up to the call that overwrites a known token is the same.
        first = calls[min(call for call, _, _ in case.rewrites)]
        (prompt,) = case.prompts
        lost = {position - len(prompt) for _, _, position in case.rewrites}
        early = [i for i, step in enumerate(steps) if 0 <= calls[step] < first and i not in lost]
        same = all((run.tokens[i], run.commit_step[i]) == (tokens[i], calls[steps[i]]) for i in early)
        return "overwrites known tokens" if same else None
    equal = all(own == token for own, token in zip(run.tokens, tokens, strict=False) if token != case.mask_id)
    if equal and run.counts.forwards < calls[-1]:
        if plan.draft_length is not None:
            return "fewer forwards with drafts"
        return "stops sooner" if plan.sampler.stop is not None else None
    return None
