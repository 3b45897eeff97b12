"""Samplers that ask what if, and the dilated schedule: worked examples from their rules, and naive loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from tests.doubles import (
    T6,
    StatefulBackbone,
    confidence_table,
    proposal_table,
    random_dream,
    random_llada,
    table_model,
    wrap,
)
from tests.naive_decoder import naive_logits
from tests.samplers.runs import commits, decode

MODELS = {"llada": random_llada(), "dream": random_dream()}
MASK = MODELS["llada"].description.mask_id
PROMPTS = st.lists(st.integers(0, MASK - 1), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("new", "base", "expected"),
    [
        (8, 2, [{0, 4}, {2, 6}, {1, 3, 5, 7}]),
        # Strides 6, 3 and then 1: floor(12 / 8) does not divide what is left.
        (12, 2, [{0, 6}, {3, 9}, {1, 2, 4, 5, 7, 8, 10, 11}]),
        (9, 3, [{0, 3, 6}, {1, 2, 4, 5, 7, 8}]),
        (1, 2, [{0}]),
    ],
)
def test_dus_goes_by_distance_alone(new: int, base: int, expected: list[set[int]]) -> None:
    table = [T6[i % 6] for i in range(new)]
    assert commits(table_model(table), samplers.dus(base), new) == expected


def test_dus_fills_what_is_left_where_a_group_is_given() -> None:
    (answer,) = dlm.generate(MODELS["llada"], [[1]], sampler="dus", max_new_tokens=8, pinned={0: 3, 4: 5, 1: 7})
    # Nothing of the first group is open: one position, from the left.
    assert answer.commit_step == [-1, -1, 0, 2, -1, 2, 1, 2]


def stateful(tables: dict[tuple[int, ...], list[float]]):
    return wrap(StatefulBackbone({frozenset(k): confidence_table(c) for k, c in tables.items()}))


def test_punt_commits_what_does_not_move() -> None:
    tables = {
        (): [0.80, 0.70, 0.60, 0.50],
        (0,): [0.80, 0.70, 0.60, 0.50],
        (0, 1, 3): [0.80, 0.70, 0.61, 0.50],  # 00 and 10 are shown, 01 stays as it is
        (0, 1, 2): [0.80, 0.70, 0.60, 0.90],  # 00 and 01 are shown, 10 moves
    }
    answer = decode(stateful(tables), samplers.punt(0.05), 4)
    assert answer.commit_step == [0, 1, 1, 2]
    assert answer.confidence == pytest.approx([0.80, 0.70, 0.60, 0.90])
    assert answer.counts.token_forwards == 5 * (1 + 3 + 1)
    # .90 log(.90 / .50) + .10 log(.10 / .50) = .368 nats, the others' share apart.
    assert decode(stateful(tables), samplers.punt(0.40), 4).commit_step == [0, 1, 1, 1]


def naive_divergence(there: torch.Tensor, before: torch.Tensor) -> float:
    """The bound of :func:`samplers.probes.punt.divergence` for one position, from two whole distributions."""
    ids = [
        sorted((v for v in range(len(p)) if v != MASK), key=lambda v: (-float(p[v]), v))[:5] for p in (there, before)
    ]
    least = float(before[ids[1][-1]])
    pairs = [(float(there[v]), float(before[v]) if v in ids[1] else least) for v in ids[0]]
    shared = sum(float(before[v]) for v in ids[0] if v in ids[1])
    pairs.append((max(1 - sum(p for p, _ in pairs), 1e-12), max(1 - shared, 1e-12)))
    return sum(p * math.log(p / q) for p, q in pairs)


def naive_punt(
    model, prompt: list[int], new: int, block: int, tolerance: float, threshold: float
) -> tuple[list[int], int]:
    """PUNT's rounds in one forward, with Python lists; tokens and positions fed."""
    canvas, fed = prompt + [MASK] * new, 0
    for start in range(len(prompt), len(canvas), block):
        end, ranked = min(start + block, len(canvas)), []
        while any(canvas[p] == MASK for p in range(start, end)):
            with torch.no_grad():
                row = naive_logits(model, canvas).softmax(-1)
            fed += len(canvas)
            best = row.clone()
            best[:, MASK] = -1
            probs, tokens = (x.tolist() for x in best.max(-1))
            open_ = [p for p in range(start, end) if canvas[p] == MASK]
            bits = (len(ranked) - 1).bit_length() if ranked else 0
            moved = set()
            for bit in range(bits):
                shown = list(canvas)
                for number, (p, token) in enumerate(ranked):
                    shown[p] = token if not number >> bit & 1 else MASK
                with torch.no_grad():
                    there = naive_logits(model, shown).softmax(-1)
                fed += len(canvas)
                asked = [p for number, (p, _) in enumerate(ranked) if number >> bit & 1]
                moved |= {p for p in asked if naive_divergence(there[p], row[p]) > tolerance}
            chosen = [p for p, token in ranked if bits and p not in moved and tokens[p] == token]
            chosen = chosen or [p for p in open_ if probs[p] >= threshold]
            chosen = chosen or [max(open_, key=lambda p: (probs[p], -p))]
            for p in chosen:
                canvas[p] = tokens[p]
            rest = sorted((p for p in open_ if p not in chosen), key=lambda p: (-probs[p], p))
            ranked = [(p, tokens[p]) for p in rest]
    return canvas[len(prompt) :], fed


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=12)
@given(prompt=PROMPTS, new=st.integers(5, 9), tolerance=st.sampled_from([0.0, 0.02, 0.1, 0.5, 2.0]))
def test_punt_equals_a_naive_loop(family: str, prompt: list[int], new: int, tolerance: float) -> None:
    sampler = samplers.punt(tolerance, levels=3, threshold=0.6, blocks=samplers.Fixed(5), precision="float64")
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=new)
    found = naive_punt(MODELS[family], prompt, new, 5, tolerance, 0.6)
    assert (answer.tokens, answer.counts.token_forwards) == found


def test_punt_leaves_what_it_has_no_number_for() -> None:
    """Two levels tell four positions apart: a step behind the first commits no more."""
    model, sampler = table_model([T6[i % 6] for i in range(12)]), samplers.punt(levels=2, threshold=1.01)
    assert [len(step) for step in commits(model, sampler, 12)] == [1, 4, 4, 3]


def test_info_gain_takes_what_tells_most_of_the_others() -> None:
    tables = {
        (): [0.70, 0.60, 0.50],
        (0,): [0.70, 0.60, 0.50],
        (1,): [0.95, 0.60, 0.95],
        (2,): [0.70, 0.60, 0.50],
    }
    answer = decode(stateful(tables), samplers.info_gain(3, position_temperature=0.0), 3)
    # The first forward commits nothing; position 1 makes the others sure, which are committed from the same forward.
    assert answer.commit_step == [1, 1, 1]
    assert answer.confidence == pytest.approx([0.95, 0.60, 0.95])
    assert answer.counts.token_forwards == 4 * (1 + 4)


@pytest.mark.parametrize(("cost", "first"), [(True, 0), (False, 1)])
def test_info_gain_pays_for_its_own_entropy(cost: bool, first: int) -> None:
    tables = {
        (): [0.90, 0.45, 0.40, 0.40],
        (0,): [0.90, 0.45, 0.40, 0.40],  # 4.2 nats a position behind it, 0.9 its own
        (1,): [0.90, 0.45, 0.45, 0.45],  # 3.0 and 4.0
        **{pair: [0.99] * 4 for pair in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))},
    }
    answer = decode(stateful(tables), samplers.info_gain(2, position_temperature=0.0, cost=cost), 4)
    assert [i for i, step in enumerate(answer.commit_step) if step == 1] == [first]


@pytest.mark.parametrize(
    ("sure", "expected"), [(0.5, ([9, 6, 7, 8], [3, 2, 1, 4], 7)), (0.2, ([5, 6, 7, 8], [0, 2, 1, 3], 6))]
)
def test_core_replaces_what_it_would_not_choose_again(sure: float, expected: tuple) -> None:
    rows = {
        (): [(5, 0.8), (6, 0.4), (7, 0.5), (8, 0.3)],
        (0,): [(5, 0.8), (6, 0.4), (7, 0.6), (8, 0.3)],
        (0, 2): [(5, 0.6), (6, 0.7), (7, 0.9), (8, 0.3)],  # of 0 and 2 the first is the more doubtful
        (2,): [(9, sure), (6, 0.7), (7, 0.9), (8, 0.3)],  # what the check at step 2 sees: 0 is masked, 1 not yet there
        (0, 1, 2): [(5, 0.6), (6, 0.7), (7, 0.9), (8, 0.3)],
    }
    model = wrap(StatefulBackbone({frozenset(k): proposal_table(row) for k, row in rows.items()}))
    answer = decode(model, samplers.core(every=1, candidates=1, protected=0), 4)
    assert (answer.tokens, answer.commit_step, answer.counts.token_forwards / 5) == expected


def test_soar_follows_two_orders_until_one_is_sure() -> None:
    rows = {
        (): [0.5, 0.4, 0.3],
        (0,): [0.5, 0.2, 0.3],
        (1,): [0.3, 0.4, 0.97],  # sure: 0.4 + 0.97 is more than 0.5 + 0.3
        (0, 2): [0.5, 0.2, 0.3],
        (1, 2): [0.6, 0.4, 0.97],
    }
    model = wrap(StatefulBackbone({frozenset(k): confidence_table(c) for k, c in rows.items()}))
    answer = decode(model, samplers.soar(), 3)
    # Step 1 takes over the order that began with 1; its first token counts as committed then.
    assert (answer.commit_step, answer.counts.token_forwards) == ([2, 1, 1], 4 * (1 + 2 + 1))
    assert answer.confidence == pytest.approx([0.6, 0.4, 0.97])
    # Never sure: the sums of confidences decide, 0.5 + 0.3 against 0.4 + 0.97.
    assert decode(model, samplers.soar(1.0), 3).commit_step == [2, 1, 1]


@pytest.mark.parametrize(
    ("floor", "expected"), [(0.5, ([0, 1, 1, 1], 5 * (1 + 3))), (0.65, ([0, 2, 1, 3], 5 * (1 + 2 + 1 + 1)))]
)
def test_unlock_takes_the_unsure_token_that_makes_most_others_sure(floor: float, expected: tuple) -> None:
    tables = {
        (): [0.8, 0.5, 0.7, 0.4],
        (0,): [0.8, 0.6, 0.7, 0.4],
        (0, 1): [0.8, 0.6, 0.95, 0.92],  # 1 is unsure and tells both
        (0, 2): [0.8, 0.66, 0.7, 0.4],  # 2 tells nothing
        (0, 1, 2): [0.8, 0.66, 0.7, 0.4],
    }
    answer = decode(stateful(tables), samplers.unlock(candidates=2, floor=floor), 4)
    assert (answer.commit_step, answer.counts.token_forwards) == expected


@pytest.mark.parametrize("policy", ["dual", "dkv_decode"])
@pytest.mark.parametrize(
    "sampler",
    [
        samplers.punt(0.3, threshold=0.5),
        samplers.info_gain(3, threshold=0.4),
        samplers.lopa(0.5, branches=2),
        samplers.core(every=1, candidates=2, protected=0),
        samplers.soar(0.6),
        samplers.unlock(0.5, candidates=2, floor=0.1),
    ],
    ids=lambda sampler: sampler.name,
)
def test_a_row_is_alone_over_a_cache_and_feeds_no_more_than_its_versions(sampler: dlm.Sampler, policy: str) -> None:
    sampler = replace(sampler, blocks=samplers.Fixed(4))
    prompts, kept = [[1, 2, 3], [4] * 9, [7, 30]], getattr(cache, policy)()
    batch = dlm.generate(MODELS["llada"], prompts, sampler=sampler, cache=kept, max_new_tokens=12, batch_size=3)
    for prompt, answer in zip(prompts, batch, strict=True):
        (alone,) = dlm.generate(MODELS["llada"], [prompt], sampler=sampler, cache=kept, max_new_tokens=12)
        assert (answer.tokens, answer.commit_step) == (alone.tokens, alone.commit_step)
        assert answer.counts.token_forwards == alone.counts.token_forwards
        if policy == "dual":
            rows = answer.counts.forwards * (1 + sampler.probe.versions)
            assert answer.counts.token_forwards <= 4 * rows + 3 * (len(prompt) + 12)
