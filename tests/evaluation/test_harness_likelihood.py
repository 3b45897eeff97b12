"""Log-likelihoods: weights sum to what they must, the estimates have the exact bound as their mean."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import samplers
from dlm.errors import SettingsError
from dlm.evaluation.harness import HarnessModel, Likelihood
from dlm.evaluation.harness.likelihood import Estimator, Pair
from dlm.tasks.base import Stream
from tests.doubles import random_dream, random_llada
from tests.evaluation.harness_doubles import TINY

FAMILIES = {"llada": random_llada, "dream": random_dream}
CONTEXT, ANSWER = (3, 14, 15, 9, 2), (26, 5, 35, 8)


def by_hand(model: Any, context: tuple[int, ...], answer: tuple[int, ...], guidance: float = 0.0) -> float:
    """The bound: masks of every size, all sizes alike, each cross-entropy scaled by n / r. One forward a mask."""
    n, start, shift, mask_id = len(answer), len(context), model.description.shift, model.description.mask_id
    total = 0.0
    for r in range(1, n + 1):
        for mask in combinations(range(n), r):
            row = torch.tensor([[*context, *(mask_id if i in mask else t for i, t in enumerate(answer))]])
            logits = model.backbone(row).logits[0]
            if guidance:
                blind = row.clone()
                blind[0, :start] = mask_id
                without = model.backbone(blind).logits[0]
                logits = without + (guidance + 1) * (logits - without)
            logprobs = logits.log_softmax(dim=-1)
            entropy = -sum(logprobs[start + i - shift, answer[i]].item() for i in mask)
            total -= entropy * (n / r) / n / math.comb(n, r)
    return total


def estimate(model: Any, pairs: list[Pair], batch_size: int = 8, seed: int = 0, guidance: float = 0.0,
             **settings: Any) -> list[Pair]:  # fmt: skip
    Estimator(model, Likelihood(**{"check_greedy": False, **settings}), seed, batch_size, guidance)(pairs)
    return pairs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_few_masks_are_all_taken_and_the_value_is_exact(family: str, guidance: float) -> None:
    model = FAMILIES[family]()
    for n in (1, 2, 4):
        (pair,) = estimate(model, [Pair(CONTEXT, ANSWER[:n])], guidance=guidance, mc_num=15)
        assert pair.value == pytest.approx(by_hand(model, CONTEXT, ANSWER[:n], guidance), rel=1e-9)
        calls = (2**n - 1) * (2 if guidance else 1)
        assert (pair.forwards, pair.token_forwards) == (calls, calls * (5 + n))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_of_the_estimates_is_the_exact_value(family: str) -> None:
    model, runs = FAMILIES[family](), 200
    exact = by_hand(model, CONTEXT, ANSWER)
    values = []
    for seed in range(runs):
        values.append(estimate(model, [Pair(CONTEXT, ANSWER)], seed=seed, mc_num=6)[0].value)
    mean, spread = sum(values) / runs, torch.tensor(values).std().item()
    assert spread > 0
    assert abs(mean - exact) < 4 * spread / math.sqrt(runs)


def test_one_mask_of_one_token_is_plain_cross_entropy() -> None:
    model = random_llada()
    row = torch.tensor([[*CONTEXT, model.description.mask_id]])
    logprob = model.backbone(row).logits[0, -1].log_softmax(0)[7].item()
    assert estimate(model, [Pair(CONTEXT, (7,))])[0].value == pytest.approx(logprob, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("mc_num", [1, 4, 6])
def test_every_number_of_masked_tokens_is_as_likely_as_any_other(n: int, mc_num: int) -> None:
    """Over the n values of the first draw every r occurs equally often at every place of a stratum."""
    settings = Likelihood(mc_num=mc_num)
    drawn = Counter(r for first in range(n) for r in settings._counts(n, SimpleNamespace(below=lambda _, f=first: f)))
    assert drawn == dict.fromkeys(range(1, n + 1), mc_num)


def test_weights_give_a_constant_cross_entropy_its_sum() -> None:
    """With cross-entropy 1 a token every size gives n, whatever is drawn."""
    for n, mc_num, compat in ((3, 128, "clean"), (9, 16, "clean"), (9, 16, "reference")):
        masks = Likelihood(mc_num=mc_num, compat=compat, stratum=8).masks(n, Stream("weights", n))
        assert sum(len(mask) * weight for mask, weight in masks.items()) == pytest.approx(n)


def test_the_rounding_of_the_reference_is_kept_on_request() -> None:
    """Ties go to even numbers: with two tokens and strata of four, three quarters of the rows mask both."""
    settings = Likelihood(mc_num=4, stratum=4, compat="reference")
    drawn = Counter(r for first in (1, 2) for r in settings._counts(2, SimpleNamespace(between=lambda *_, f=first: f)))
    assert drawn == {1: 2, 2: 6}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_do_not_depend_on_the_batch_or_on_other_pairs(family: str) -> None:
    model = FAMILIES[family]()
    asked = [(CONTEXT, ANSWER), (CONTEXT[:1], ANSWER * 3), (CONTEXT * 2, ANSWER[:2])]
    together = estimate(model, [Pair(*a) for a in asked], mc_num=12)
    for pair, a in zip(together, asked, strict=True):
        (alone,) = estimate(model, [Pair(*a)], mc_num=12, batch_size=1)
        assert alone.value == pytest.approx(pair.value, rel=1e-9)
        assert alone.forwards == pair.forwards <= 12


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_the_model_itself_says_one_token_a_step(family: str) -> None:
    import dlm

    model = FAMILIES[family]()
    sampler = samplers.topk(tokens_per_step=1, blocks=samplers.Whole())
    own = tuple(dlm.generate(model, [list(CONTEXT)], sampler=sampler, max_new_tokens=4)[0].tokens)
    right, wrong = estimate(model, [Pair(CONTEXT, own), Pair(CONTEXT, (*own[:-1], 1))], check_greedy=True)
    assert (right.greedy, wrong.greedy) == (True, False)
    assert right.forwards == 15 + 4


def asking(*args: str, doc: int = 0) -> Any:
    return SimpleNamespace(args=args, task_name="t", doc_id=doc, repeats=1, idx=0)


def test_requests_of_the_harness() -> None:
    model = HarnessModel(TINY, sampler=samplers.threshold(0.9), batch_size=16, likelihood=Likelihood(mc_num=16))
    right, wrong = model.loglikelihood([asking("47+85=", "132"), asking("47+85=", "999", doc=1)])
    assert right[0] > wrong[0]
    spaced, moved = model.loglikelihood([asking("one two ", "three"), asking("one two", " three")])
    assert spaced == moved
    assert model.loglikelihood([asking("", "three")])[0][0] < 0
    assert model.loglikelihood([asking("a", "")]) == [(0.0, True)]
    counted = [c for c in model.answers.known.values() if c.tokens is None]
    assert len(counted) == len(model.answers.known) > 0


def test_whole_texts_fall_into_pieces_where_they_do_not_fit() -> None:
    model = HarnessModel(TINY, sampler=samplers.threshold(0.9), batch_size=4, likelihood=Likelihood(mc_num=2))
    short, long = model.loglikelihood_rolling([asking("A fox runs."), asking("a fox runs. " * 90, doc=1)])
    assert long < short < 0
    assert model.loglikelihood_rolling([asking("A fox runs.")]) == [pytest.approx(short, rel=1e-5)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mc_num": 0}, "mc_num"),
        ({"mc_num": True}, "mc_num"),
        ({"compat": "other"}, "compat"),
        ({"check_greedy": 1}, "check_greedy"),
        ({"mc_num": 10, "stratum": 4, "compat": "reference"}, "must divide"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Likelihood(**settings)
