"""Probes: against a naive loop, over caches, and against the laws."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe
from tests.doubles import one_layer, random_dream, random_llada
from tests.naive_decoder import answers_of

MODELS = {"llada": random_llada(), "dream": random_dream()}
MASK = MODELS["llada"].description.mask_id
PROMPTS = st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6)
ROUNDS = 5  # steps of a block in which a token may be taken back


@dataclass(frozen=True)
class Trial(Probe):
    """Three versions: the surest open token put in; the second surest on top of it; the least sure token taken back.
    The one whose open positions are surest on average wins."""

    @property
    def versions(self) -> int:
        return 3

    @property
    def follows(self) -> tuple[int, ...]:
        return (0, 1, 0)

    @property
    def remasks(self) -> bool:
        return True

    def init(self, canvas: Any) -> Any:
        nowhere = torch.full_like(canvas.start, canvas.scratch)[:, None].expand(-1, 2)
        return nowhere.clone(), torch.zeros_like(nowhere), torch.zeros_like(nowhere, dtype=torch.float64)

    def propose(self, canvas: Any, blocks: Any, state: Any) -> Edits:
        committed = blocks.block & canvas.writable & ~canvas.masked
        doubt = canvas.commit_confidence.double().masked_fill(~committed, torch.inf)
        worst, at = doubt.min(dim=1, keepdim=True)
        back = at.masked_fill(worst.isinf() | (blocks.block_step >= ROUNDS)[:, None], canvas.scratch)
        position, token, prob = state
        gone = torch.full_like(back, canvas.mask_id), torch.zeros_like(back, dtype=torch.float64)
        stacked = (torch.cat(pair, dim=1) for pair in ((position, back), (token, gone[0]), (prob, gone[1])))
        return Edits(*(x[:, :, None] for x in stacked))

    def choose(self, views: Any, state: Any) -> Choice:
        left = views.eligible
        mean = (views.proposal.prob.double() * left).sum(dim=2) / left.sum(dim=2)
        return Choice(mean.masked_fill(~views.exists | ~left.any(dim=2), -1.0).argmax(dim=1))

    def learn(self, view: Any, chosen: Any, state: Any) -> Any:
        left = view.eligible & ~chosen
        prob = view.proposal.prob.double().masked_fill(~left, -1.0)
        prob = torch.nn.functional.pad(prob, (0, max(0, 2 - prob.shape[1])), value=-1.0)
        best = prob.sort(dim=1, descending=True, stable=True)
        order, sure = best.indices[:, :2].clamp_max(left.shape[1] - 1), best.values[:, :2]
        position = view.positions.gather(1, order).masked_fill(sure < 0, view.canvas.scratch)
        return position, view.proposal.token.gather(1, order), sure


def naive_trial(model: Any, prompt: list[int], new: int, block: int, threshold: float) -> tuple[list[int], int, int]:
    """:class:`Trial` with Python lists: tokens, forwards and positions fed."""
    canvas, sureness, forwards, fed = prompt + [MASK] * new, {}, 0, 0
    for start in range(len(prompt), len(canvas), block):
        places = range(start, min(start + block, len(canvas)))
        candidates: list[tuple[int, int, float]] = []
        open_before, step = 0, 0
        while any(canvas[p] == MASK for p in places):
            made: list[tuple[list[int], dict[int, float]] | None] = [(list(canvas), {})]
            for k, base in ((0, 0), (1, 1)):
                parent = made[base] if base < len(made) else None
                if k < len(candidates) and parent is not None:
                    p, token, prob = candidates[k]
                    made.append(([token if i == p else t for i, t in enumerate(parent[0])], {**parent[1], p: prob}))
                else:
                    made.append(None if k == 0 or made[1] is None else made[1])
            held = [p for p in places if canvas[p] != MASK]
            worst = min(held, key=lambda p: (sureness[p], p), default=None)
            taken = worst is not None and step < ROUNDS
            made.append(([MASK if i == worst else t for i, t in enumerate(canvas)], {}) if taken else None)
            asked = 1 + min(3, open_before)
            fed += asked * len(canvas)
            best, score = 0, -2.0
            seen = []
            for k, version in enumerate(made[:asked]):
                seen.append(None if version is None else answers_of(model, version[0]))
                if version is None or seen[k] is None or (k and version[0] == canvas):
                    continue
                open_ = [p for p in places if version[0][p] == MASK]
                mean = sum(seen[k][1][p] for p in open_) / len(open_) if open_ else -1.0
                if mean > score:
                    best, score = k, mean
            (now, put), (tokens, probs) = made[best], seen[best]
            open_ = [p for p in places if now[p] == MASK]
            sure = [p for p in open_ if probs[p] >= threshold]
            if not sure and not put and open_:
                sure = [max(open_, key=lambda p: (probs[p], -p))]
            canvas = [tokens[p] if p in sure else t for p, t in enumerate(now)]
            # Confidences are kept as float32 numbers.
            sureness |= {
                p: float(torch.tensor(c, dtype=torch.float32))
                for p, c in {**put, **{p: probs[p] for p in sure}}.items()
            }
            left = sorted((p for p in open_ if p not in sure), key=lambda p: (-probs[p], p))
            candidates = [(p, tokens[p], probs[p]) for p in left[:2]]
            open_before, step, forwards = len(left), step + 1, forwards + 1
    return canvas[len(prompt) :], forwards, fed


def trial(threshold: float, block: int) -> dlm.Sampler:
    blocks, precise = samplers.Fixed(block), dlm.Proposer(precision="float64")
    return dlm.Sampler(
        "trial", samplers.Probability(), samplers.Threshold(threshold), blocks, proposer=precise, probe=Trial()
    )


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=15)
@given(prompt=PROMPTS, new=st.integers(3, 10), block=st.integers(2, 6), threshold=st.sampled_from([0.05, 0.2, 0.9]))
def test_a_probe_equals_a_naive_loop(family: str, prompt: list[int], new: int, block: int, threshold: float) -> None:
    """Versions that put in, follow each other and take back; what is committed, and what is fed."""
    sampler = trial(threshold, min(block, new))
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=new)
    expected = naive_trial(MODELS[family], prompt, new, min(block, new), threshold)
    assert (answer.tokens, answer.counts.forwards, answer.counts.token_forwards) == expected


SERVING = {
    "prefix": cache.prefix(), "dual": cache.dual(), "dual every": cache.dual(every=3), "vicinity": cache.vicinity(2, 2),
    "dkv_decode": cache.dkv_decode(interval=3), "dkv_prefill": cache.dkv_prefill(), "dkv_pd": cache.dkv_pd(interval=2),
    "freecache": cache.freecache(), "window": cache.window(ahead=8),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVING)
def test_a_probe_over_a_cache_is_exact_where_keys_depend_on_their_token_alone(name: str) -> None:
    """In one layer a stale key can only be that of another token; window hides nothing here. Rows that are recomputed
    whole have no versions in that step, so the runs are compared step by step."""
    model, policy = one_layer(), SERVING[name]
    whole = Whole(policy)
    options = {"sampler": trial(0.1, 8), "max_new_tokens": 16}
    for prompts in ([[1, 2, 3]], [[4, 5], [6, 7, 8, 9], [3]]):
        cached = dlm.generate(model, prompts, cache=policy, **options)
        exact = dlm.generate(model, prompts, cache=whole, **options)
        assert [(a.tokens, a.commit_step) for a in cached] == [(a.tokens, a.commit_step) for a in exact]


class Whole(type(cache.none())):  # type: ignore[misc]
    """No cache, with the refreshes of a policy noted in the plan: what a policy would compute if it stored nothing."""

    def __init__(self, policy: Any) -> None:
        object.__setattr__(self, "policy", policy)

    def open(self, layout: Any) -> Any:
        run, policy = super().open(layout), self.policy
        plan = run.plan

        def noted(query: Any) -> Any:
            whole = frozenset(slot for slot, row in enumerate(query.rows) if policy.refreshes(row))
            return replace(plan(query), refreshed=whole)

        run.plan = noted
        return run


@pytest.mark.parametrize("name", ["none", "dual", "dkv_decode", "freecache"])
@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=5)
@given(prompts=st.lists(PROMPTS, min_size=2, max_size=4), batch=st.integers(1, 3))
def test_a_row_is_alone(family: str, name: str, prompts: list[list[int]], batch: int) -> None:
    options = {"sampler": trial(0.2, 4), "max_new_tokens": 10, "cache": getattr(cache, name)()}
    together = dlm.generate(MODELS[family], prompts, batch_size=batch, **options)
    for prompt, other in zip(prompts, together, strict=True):
        (alone,) = dlm.generate(MODELS[family], [prompt], **options)
        assert (other.tokens, other.commit_step) == (alone.tokens, alone.commit_step)
        assert other.counts.token_forwards == alone.counts.token_forwards


@dataclass(frozen=True)
class Vandal(Probe):
    """Wants to write over the prompt, behind the block and into committed positions, and to commit the mask."""

    @property
    def versions(self) -> int:
        return 2

    def versions_of(self, row: Any) -> int:
        return 2

    def propose(self, canvas: Any, blocks: Any, state: Any) -> Edits:
        nothing = torch.zeros_like(blocks.block_end)
        where = torch.stack([nothing, blocks.block_end, blocks.block_start, blocks.block_end - 1], dim=1).view(-1, 2, 2)
        token = torch.full_like(where, 1)
        token[:, 1] = canvas.mask_id
        held = blocks.block & canvas.writable & ~canvas.masked
        where[:, 0, 1] = torch.where(held.any(dim=1), held.int().argmax(dim=1), where[:, 0, 1])
        return Edits(where.clamp_max(canvas.scratch), token, torch.ones_like(where, dtype=torch.float64))

    def choose(self, views: Any, state: Any) -> Choice:
        everything = torch.ones_like(views.eligible[:, 0])
        return Choice(torch.ones_like(views.positions[:, 0]), commit=everything & ~views.eligible[:, 0])


@pytest.mark.parametrize("name", ["none", "dual"])
def test_a_probe_cannot_break_the_laws(name: str) -> None:
    model, blocks = MODELS["llada"], samplers.Fixed(4)
    options = {"max_new_tokens": 8, "cache": getattr(cache, name)(), "batch_size": 2}
    sampler = dlm.Sampler("vandal", samplers.Probability(), samplers.Threshold(0.3), blocks, probe=Vandal())
    plain = dlm.generate(model, [[1, 2], [3]], sampler=samplers.threshold(0.3, blocks=blocks), **options)
    vandal = dlm.generate(model, [[1, 2], [3]], sampler=sampler, **options)
    assert [(a.tokens, a.commit_step, a.prompt_tokens) for a in vandal] == [
        (a.tokens, a.commit_step, a.prompt_tokens) for a in plain
    ]


@dataclass(frozen=True)
class Only(Vandal):
    """Commits what it likes, and leaves nothing to the selector: the first open position and the last."""

    def choose(self, views: Any, state: Any) -> Choice:
        first = views.eligible[:, 0].int().argmax(dim=1, keepdim=True)
        commit = torch.zeros_like(views.eligible[:, 0]).scatter(1, first, True)
        return Choice(torch.zeros_like(views.positions[:, 0]), commit, torch.zeros_like(commit))


def test_a_probe_may_say_alone_what_is_committed() -> None:
    sampler = dlm.Sampler("only", samplers.Probability(), samplers.Threshold(0.01), samplers.Fixed(4), probe=Only())
    (answer,) = dlm.generate(MODELS["llada"], [[1, 2]], sampler=sampler, max_new_tokens=8)
    assert answer.commit_step == list(range(8))


@dataclass(frozen=True)
class Backwards(Trial):
    """Follows a version that comes later."""

    @property
    def follows(self) -> tuple[int, ...]:
        return (2, 0, 0)


def test_what_cannot_be_is_refused() -> None:
    parts = samplers.Probability(), samplers.Threshold(), samplers.Fixed(4)
    with pytest.raises(SettingsError, match="version 1 follows 2"):
        dlm.generate(MODELS["llada"], [[1]], sampler=dlm.Sampler("x", *parts, probe=Backwards()), max_new_tokens=4)
    for name in ("entropy", "adaptive", "dllm", "sparse"):
        with pytest.raises(SettingsError, match="cannot share what it keeps"):
            dlm.generate(MODELS["llada"], [[1]], sampler=trial(0.5, 4), cache=getattr(cache, name)(), max_new_tokens=4)
    with pytest.raises(SettingsError, match="look-ahead branches or another probe"):
        dlm.generate(MODELS["llada"], [[1]], sampler=trial(0.5, 4), drafter=dlm.drafting.FreeDave(2), max_new_tokens=4)


def test_the_probe_of_the_document_is_short() -> None:
    text = (Path(__file__).parents[2] / "docs" / "write_a_probe.md").read_text(encoding="utf-8")
    module = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    assert len(module.splitlines()) < 60
