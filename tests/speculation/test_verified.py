"""Verified drafts: against a naive loop, over caches, and against the laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from tests.doubles import one_layer, random_dream, random_llada
from tests.naive_decoder import naive_logits
from tests.speculation.test_probes import SERVING, Whole

MODELS = {"llada": random_llada(), "dream": random_dream()}
MASK = MODELS["llada"].description.mask_id
PROMPTS = st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6)
Guess = dict[int, tuple[int, int]]  # position to place and token


def seen_in(model: Any, canvas: list[int]) -> list[tuple[float, list[tuple[float, int]]]]:
    """At every position the entropy, and the five likeliest tokens that are no mask."""
    with torch.no_grad():
        logits = naive_logits(model, canvas)
    probs = logits.softmax(-1)
    entropy = torch.special.entr(probs).sum(-1).tolist()
    probs[:, MASK] = -1.0
    best = probs.topk(5, dim=-1)
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [(h, list(zip(p, t, strict=True))) for h, (p, t) in zip(entropy, pairs, strict=True)]


def guess_of(seen: Any, left: list[int], used: set[int], drafts: int, sure: float, again: float) -> Guess:
    """The drafts at the positions that are left."""
    made: Guess = {}
    prob = {p: {t: q * again if t in used else q for q, t in seen[p][1]} for p in left}
    other = {p: max(1.0 - sum(prob[p].values()), 1e-9) for p in left}
    for place in range(1, drafts + 1):
        open_ = [p for p in left if p not in made]
        if not open_:
            break
        best = {p: max(prob[p], key=prob[p].__getitem__) for p in open_}
        share = {p: prob[p][best[p]] / (sum(prob[p].values()) + other[p]) for p in open_}
        put = [p for p in open_ if share[p] >= sure] or [max(open_, key=lambda p: (share[p], -p))]
        made |= {p: (place, best[p]) for p in put}
        used = {best[p] for p in put if share[p] < sure}
        prob = {p: {t: q * again if t in used else q for t, q in prob[p].items()} for p in left}
    return made


def entropy_bound(seen: Any, open_: list[int], gamma: float) -> list[int]:
    taken: list[int] = []
    for p in sorted(open_, key=lambda p: (seen[p][0], p)):
        total = [seen[q][0] for q in (*taken, p)]
        if taken and sum(total) - max(total) > gamma:
            break
        taken.append(p)
    return taken


def naive(model: Any, prompt: list[int], new: int, block: int, how: dict[str, Any]) -> tuple[list[int], int, int]:
    """The preset with Python lists: tokens, forwards and positions fed."""
    drafts, regret, sure = how["drafts"], how["regret"], how["sure"]
    canvas, forwards, fed, guesses, block_open = prompt + [MASK] * new, 0, 0, [Guess(), Guess()], 0
    while MASK in canvas:
        start = canvas.index(MASK) if not block_open else start
        places = range(start, min(start + block, len(canvas)))
        count = 2 * min(drafts, block_open or canvas.count(MASK)) if forwards else 0
        made = [list(canvas)]
        for i in range(1, 2 * drafts + 1):
            row, guess = list(made[max(i - 2, 0)]), guesses[(i - 1) % 2]
            for p, (place, token) in guess.items():
                if place == (i + 1) // 2 and p in places and canvas[p] == MASK:
                    row[p] = token
            made.append(row)
        seen = [seen_in(model, row) for row in made[: 1 + count]]
        fed += (1 + count) * len(canvas)
        chains = []
        for g in (0, 1):
            good, failed = 0, None
            for i in range(1 + g, 2 * drafts + 1, 2):
                parent = max(i - 2, 0)
                put = [p for p in places if made[parent][p] == MASK != made[i][p]]
                if i > count or made[i] == canvas or not put:
                    break
                top = {p: seen[parent][p][1][0] for p in places if made[parent][p] == MASK}
                surest = max(prob for prob, _ in top.values())
                near = len(put) == 1 and top[put[0]][0] >= surest - regret
                if not all(top[p][0] >= sure or near for p in put):
                    break
                odds = {p: {t: q for q, t in seen[parent][p][1]}.get(made[i][p], 0.0) for p in put}
                if any(odds[p] < how["likely"] * top[p][0] for p in put):
                    failed = put
                    break
                good = (i + 1) // 2
            chains.append((good, failed, 0 if not good else 2 * good - 1 + g))
        good, failed, version = max(chains, key=lambda chain: chain[0])
        now, at = made[version], seen[version]
        open_ = [p for p in places if now[p] == MASK]
        if failed is not None:
            put = [p for p in open_ if p in failed or at[p][1][0][0] >= sure]
        else:
            put = entropy_bound(at, open_, how["gamma"])
        after = [at[p][1][0][1] if p in put else t for p, t in enumerate(now)]
        fresh = [p for p in places if after[p] != canvas[p]]
        gone = {after[p] for p in fresh if at[p][1][0][0] < sure}
        canvas, forwards = after, forwards + 1
        left = [p for p in places if canvas[p] == MASK]
        block_open = len(left)
        left = left or list(range(places.stop, min(places.stop + len(places), len(canvas))))
        guesses = [guess_of(at, left, gone, drafts, sure, again) for again in (1.5, 0.0)]
    return canvas[len(prompt) :], forwards, fed


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=25)
@given(
    prompt=PROMPTS,
    new=st.integers(3, 10),
    block=st.integers(2, 6),
    drafts=st.integers(1, 3),
    regret=st.sampled_from([0.0, 0.05, 1.0]),
    sure=st.sampled_from([0.1, 0.3, 0.9]),
    likely=st.sampled_from([0.3, 0.7, 1.0]),
)
def test_verified_equals_a_naive_loop(
    family: str, prompt: list[int], new: int, block: int, drafts: int, regret: float, sure: float, likely: float
) -> None:
    how = {"gamma": 0.5, "drafts": drafts, "regret": regret, "sure": sure, "likely": likely}
    sampler = samplers.verified(**how, blocks=samplers.Fixed(min(block, new)), precision="float64")
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=new)
    expected = naive(MODELS[family], prompt, new, min(block, new), how)
    assert (answer.tokens, answer.counts.forwards, answer.counts.token_forwards) == expected


def sampler(**options: Any) -> dlm.Sampler:
    return samplers.verified(0.5, regret=1.0, sure=0.3, precision="float64", **options)


@pytest.mark.parametrize("name", SERVING)
def test_over_a_cache_it_is_exact_where_keys_depend_on_their_token_alone(name: str) -> None:
    """As for other probes: rows that are recomputed whole have no versions, so the runs are compared step by step. In
    one block: what a cache does not feed of the next one is not drafted. And prompts so long that a window is none."""
    model, policy = one_layer(), SERVING[name]
    options = {"sampler": sampler(blocks=samplers.Fixed(12)), "max_new_tokens": 12}
    for prompts in ([[1, 2, 3, 4]], [[4, 5, 6, 7], [6, 7, 8, 9, 1, 2], [3, 1, 4, 1, 5]]):
        cached = dlm.generate(model, prompts, cache=policy, **options)
        exact = dlm.generate(model, prompts, cache=Whole(policy), **options)
        assert [(a.tokens, a.commit_step) for a in cached] == [(a.tokens, a.commit_step) for a in exact]


@pytest.mark.parametrize("name", ["none", "dual", "dkv_decode", "freecache"])
@settings(max_examples=8)
@given(prompts=st.lists(PROMPTS, min_size=2, max_size=4), batch=st.integers(1, 3))
def test_a_row_is_alone(name: str, prompts: list[list[int]], batch: int) -> None:
    options = {"sampler": sampler(blocks=samplers.Fixed(4)), "max_new_tokens": 10, "cache": getattr(cache, name)()}
    together = dlm.generate(MODELS["llada"], prompts, batch_size=batch, **options)
    for prompt, other in zip(prompts, together, strict=True):
        (alone,) = dlm.generate(MODELS["llada"], [prompt], **options)
        assert (other.tokens, other.commit_step) == (alone.tokens, alone.commit_step)
        assert other.counts.token_forwards == alone.counts.token_forwards


def test_it_does_not_go_with_drafts() -> None:
    with pytest.raises(dlm.errors.SettingsError, match="look-ahead branches or another probe"):
        dlm.generate(MODELS["llada"], [[1]], sampler=sampler(), max_new_tokens=4, drafter=dlm.drafting.FreeDave(2))


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"drafts": 0}, "drafts must be from 1 to 32"),
        ({"drafts": 33}, "two further rows of every forward"),
        ({"regret": 1.5}, r"regret must be in \[0, 1\]"),
        ({"sure": 0.0}, r"sure must be in \(0, 1\]"),
        ({"likely": 2.0}, r"likely must be in \(0, 1\]"),
    ],
)
def test_bad_settings_are_refused(settings_: dict[str, Any], says: str) -> None:
    with pytest.raises(dlm.errors.SettingsError, match=says):
        samplers.verified(**settings_)


def test_drawn_tokens_must_follow_their_law() -> None:
    """What is merely likely may stand in for what is likeliest, but not for what was drawn."""
    assert samplers.verified().probe.likely == 0.7
    assert samplers.verified(temperature=1.0).probe.likely == 1.0
