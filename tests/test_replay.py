"""A replay says what the rollout saw, token by token, and its gradients are those of the plain computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dlm
import samplers
from dlm.drafting import FreeDave
from dlm.errors import PromptError, SettingsError
from dlm.models.language_model import LanguageModel
from dlm.replaying import Trajectory
from tests.doubles import random_dream, random_llada
from tests.samplers.test_block_diffusion import MODELS

PROMPTS = [[7] * 3, [9, 4, 2, 8, 1, 30, 5, 2, 11], [5] * 16]
FAMILIES = {"llada": random_llada(), "dream": random_dream(), "sdar": MODELS["sdar_tiny"]}
RULES = {
    "threshold": samplers.threshold(0.3), "drawn": samplers.topk(tokens_per_step=3, temperature=1.0),
    "eb": samplers.eb(0.5), "ended": samplers.topk(tokens_per_step=2, stop_at_end=True, blocks=samplers.Fixed(4)),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_the_rollout(family: str, rule: str) -> None:
    model = FAMILIES[family]
    prompts = [prompt[:11] for prompt in PROMPTS] if family != "sdar" else [[7] * 3, [9, 4, 2] + [8] * 8, [5] * 19]
    runs = dlm.generate(model, prompts, sampler=RULES[rule], max_new_tokens=13)
    told = dlm.replay(model, runs, micro_batch=5)
    assert told.forwards == sum(len({*run.commit_step} - {-1}) for run in runs)
    for row, run in enumerate(runs):
        seen = torch.tensor(run.confidence, dtype=torch.float64)
        assert told.committed[row].tolist() == [step >= 0 for step in run.commit_step]
        there = told.committed[row]
        torch.testing.assert_close(told.log_probs[row].exp()[there], seen[there], rtol=1e-9, atol=1e-12)
        assert not told.log_probs[row][~there].any()
        (alone,) = dlm.replay(model, [run]).log_probs
        torch.testing.assert_close(alone, told.log_probs[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [samplers.saber, lambda: samplers.remdm(tokens_per_step=2), samplers.wino])
def test_tokens_that_were_taken_back(make: Any) -> None:
    """The last commit counts, before the state that the trace has."""
    model = FAMILIES["llada"]
    runs = dlm.generate(model, PROMPTS, sampler=make(), max_new_tokens=13, record="commits")
    told = dlm.replay(model, runs)
    for row, run in enumerate(runs):
        seen = torch.tensor(run.confidence, dtype=torch.float64)
        torch.testing.assert_close(told.log_probs[row].exp(), seen, rtol=1e-9, atol=1e-12)


def test_infill_keeps_what_was_given() -> None:
    model, mask = FAMILIES["llada"], FAMILIES["llada"].description.mask_id
    runs = dlm.infill(model, [[7, 8, mask, mask, 9, mask, 3]], sampler=samplers.topk())
    told = dlm.replay(model, runs)
    seen = torch.tensor(runs[0].confidence, dtype=torch.float64)
    there = told.committed[0]
    assert int(there.sum()) == 3
    torch.testing.assert_close(told.log_probs[0].exp()[there], seen[there], rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_a_plain_computation() -> None:
    model = dlm.load("tiny", device="cpu", dtype="float64", trainable=True)
    (run,) = dlm.generate(model, ["47+85="], sampler=samplers.topk(tokens_per_step=4), max_new_tokens=16)
    backbone: Any = model.backbone
    mask, start = model.description.mask_id, len(run.prompt_tokens)
    total = torch.zeros((), dtype=torch.float64)
    for step in range(max(run.commit_step) + 1):
        shown = [t if s < step else mask for t, s in zip(run.tokens, run.commit_step, strict=True)]
        logits = backbone(torch.tensor([run.prompt_tokens + shown])).logits[0, start:].log_softmax(dim=1)
        total = total + sum(logits[i, run.tokens[i]] for i, s in enumerate(run.commit_step) if s == step)
    total.backward()
    plain = {name: weight.grad.clone() for name, weight in backbone.named_parameters() if weight.grad is not None}
    for more in ({}, {"micro_batch": 2}, {"micro_batch": 3, "checkpoint": True}):
        backbone.zero_grad()
        told = dlm.replay(model, [run], gradients=True, **more)
        assert float(told.log_probs.detach().sum()) == pytest.approx(float(total.detach()), rel=1e-9)
        told.log_probs.sum().backward()
        for name, weight in backbone.named_parameters():
            if name in plain:
                torch.testing.assert_close(weight.grad, plain[name], rtol=1e-7, atol=1e-9)


def test_a_module_under_training_is_a_rollout_model() -> None:
    """Around any module of ours; answers and replay follow its weights."""
    first = dlm.load("tiny", device="cpu", trainable=True)
    model = LanguageModel(first.backbone, first.tokenizer, "mine")
    optimiser = torch.optim.SGD(first.backbone.parameters(), lr=1e-4)  # type: ignore[attr-defined]
    prompts, rule = ['Shuffle the list: ["Anna", "Bob", "Cleo"]'] * 4, samplers.topk(temperature=1.0)
    runs = dlm.generate(model, prompts, sampler=rule, max_new_tokens=24, seed=1)
    assert len({tuple(run.tokens) for run in runs}) > 1  # copies draw from streams of their own
    before = dlm.replay(model, runs, gradients=True)
    (-before.log_probs[0].sum()).backward()
    optimiser.step()
    after = dlm.replay(model, runs)
    assert float(after.log_probs[0].sum()) > float(before.log_probs[0].detach().sum())
    again = dlm.generate(model, prompts, sampler=rule, max_new_tokens=24, seed=1)
    assert [run.confidence for run in again] != [run.confidence for run in runs]


def test_what_cannot_be_replayed() -> None:
    model = FAMILIES["llada"]
    mask = model.description.mask_id
    good = Trajectory([1, 2], [3, 4, 5], [0, 1, 1])
    assert dlm.replay(model, [good]).forwards == 2
    assert dlm.replay(model, []).log_probs.shape == (0, 0)
    for run, told in (
        (Trajectory([1], [3, 4], [0, 2]), "run 1: no token is of step 1 of 3"),
        (Trajectory([1], [3, 4], [0]), "run 1: 2 tokens, but 1 steps"),
        (Trajectory([1], [3, 9999], [0, 1]), "run 1: it has tokens that this model has none of"),
        (Trajectory([1], [3, mask], [0, 1]), "or masks that nothing filled"),
        (Trajectory([1], [3, 4], [0, 1], states=[[1, mask, mask]]), "1 states for 2 steps"),
    ):
        with pytest.raises(PromptError, match=told):
            dlm.replay(model, [good, run])
    with pytest.raises(SettingsError, match="trainable=True"):
        dlm.replay(dlm.load("tiny", device="cpu"), [good], gradients=True)
    with pytest.raises(SettingsError, match="micro_batch"):
        dlm.replay(model, [good], micro_batch=0)
    tiny = dlm.load("tiny", device="cpu")
    drafted = dlm.generate(tiny, ["47+85="], sampler=samplers.topk(), drafter=FreeDave(4), max_new_tokens=8)
    with pytest.raises(SettingsError, match="drafted run"):
        dlm.replay(tiny, drafted)
    with pytest.raises(PromptError, match="a multiple of 8 positions"):
        dlm.replay(FAMILIES["sdar"], [good])
    with pytest.raises(SettingsError, match="contradict"):
        dlm.load("tiny", trainable=True, quantize="int8")
