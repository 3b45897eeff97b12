"""The learned unmasking policy: its network by hand, its rule, its file, and what it draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import dlm
import samplers
from dlm.errors import CheckpointError, SettingsError
from dlm.training.policy_file import Policy, policy_inputs, read_policy, write_policy
from tests.doubles import confidence_table, random_llada, table_model
from tests.samplers.runs import commits, outcome, view_of

MODEL = random_llada()
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6], [5], [3, 5, 8, 9, 7, 9, 3]]


def simple(**weights: torch.Tensor) -> Policy:
    """A policy of zeros but for these weights."""
    zeros = {name: torch.zeros_like(w) for name, w in Policy.fresh(width=2, heads=1).weights.items()}
    return Policy({**zeros, **weights})


def test_a_policy_that_has_not_learnt_is_the_threshold_rule() -> None:
    for threshold in (0.2, 0.35):
        mine = samplers.policy(Policy.fresh(threshold), blocks=samplers.Fixed(4), precision="float64")
        theirs = samplers.threshold(threshold, blocks=samplers.Fixed(4), precision="float64")
        found = [
            [outcome(a) for a in dlm.generate(MODEL, PROMPTS, sampler=s, max_new_tokens=10)] for s in (mine, theirs)
        ]
        assert found[0] == found[1]
        assert min(forwards for _, _, forwards in found[0]) < 10


def test_worked_example_with_attention() -> None:
    """One head of two numbers: a position is committed where its confidence is above the mean of the open ones, which
    is what attention without a preference gives it: h = (p, 0), q = k = 0, v = (0, p), so h becomes (p, mean p)."""
    into = torch.zeros(6, 2)
    into[0, 0] = 1.0
    qkv = torch.zeros(2, 6)
    qkv[0, 5] = 1.0
    far = torch.tensor([-40.0])  # distance counts nothing
    policy = simple(**{"in": into, "qkv": qkv, "slope": far, "out": torch.eye(2), "head": torch.tensor([1.0, -1.0])})
    model = table_model(confidence_table([0.9, 0.6, 0.8, 0.3]))
    sampler = samplers.policy(policy, blocks=samplers.Fixed(4))
    # Mean .65: .9 and .8; of .6 and .3 then .6; alone nothing is above itself, and .3 is committed in any case.
    assert commits(model, sampler, 4) == [{0, 2}, {1}, {3}]
    assert commits(model, replace(sampler, selector=replace(sampler.selector, boldness=0.1)), 4) == [{0, 1, 2}, {3}]
    # Neighbours weigh exp(-d) with a slope of 1: position 1 sees 1, 1/e, 1/e, 1/e^2 of .6, .9, .8, .3, a mean of .686.
    near = replace(policy, weights={**policy.weights, "slope": torch.tensor([0.5413])})
    shown = near(view_of([0.9, 0.6, 0.8, 0.3]))
    weighed = (0.6 + (0.9 + 0.8) / 2.71828 + 0.3 / 7.38906) / (1 + 2 / 2.71828 + 1 / 7.38906)
    assert float(shown[0, 1]) == pytest.approx(0.6 - weighed, abs=1e-4)


def test_inputs_by_hand() -> None:
    view = view_of([0.9, 0.5, 0.4])
    blocks = replace(view.blocks, block_masks=torch.tensor([4]), step=torch.tensor([1]))
    view = replace(view, eligible=torch.tensor([[True, False, True]]), blocks=blocks)
    time = 1 / float(view.canvas.asked[0] - view.canvas.start[0])
    shown = policy_inputs(view)[0]
    assert shown[0].tolist() == pytest.approx([0.9, 2.19722 / 4, 0.5, time, 0, 0], abs=1e-5)
    assert shown[2].tolist() == pytest.approx([0.4, -0.405465 / 4, 0.5, time, 0, 0], abs=1e-5)
    assert policy_inputs(view_of([0.9, 0.5, 0.4]))[0, :, 4:].tolist() == [[0, 1], [1, 1], [1, 0]]


def test_exploring_draws_with_the_probabilities_and_alone() -> None:
    policy = simple(bias=torch.tensor(-1.0))
    sampler = samplers.policy(policy, explore=True, precision="float64")
    model = table_model(confidence_table([0.5] * 8))
    first = [
        answer.commit_step.count(0)
        for answer in dlm.generate(model, [[1]] * 400, sampler=sampler, max_new_tokens=8, batch_size=100)
    ]
    chance = 1 / (1 + 2.71828)  # of eight, and one where none is drawn
    assert sum(first) / 400 == pytest.approx(8 * chance + (1 - chance) ** 8, abs=0.2)
    together = dlm.generate(MODEL, PROMPTS, sampler=sampler, max_new_tokens=10, batch_size=4, seed=2)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        assert outcome(dlm.generate(MODEL, prompt, sampler=sampler, max_new_tokens=10, seed=2)[0]) == outcome(answer)


def test_what_a_modifier_puts_last_is_not_wanted() -> None:
    model = table_model([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])  # 0 ends the text
    bold = simple(bias=torch.tensor(9.0))
    assert commits(model, samplers.policy(bold), 3) == [{0, 1, 2}]
    assert commits(model, samplers.policy(bold, suppress_end=True), 3) == [{1, 2}, {0}]


def test_the_file_and_what_is_no_policy(tmp_path) -> None:
    path = tmp_path / "policy.safetensors"
    policy = replace(Policy.fresh(0.7), card={"model": "m"})
    write_policy(path, policy)
    again = read_policy(path)
    assert again.card == {"model": "m"}
    assert all(torch.equal(again.weights[name], w.float()) for name, w in policy.weights.items())
    write_policy(tmp_path / "same.safetensors", again)
    assert (tmp_path / "same.safetensors").read_bytes() == path.read_bytes()
    save_file({"fc1.weight": torch.zeros(1)}, tmp_path / "filter.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("filter", "text", "absent"):
        with pytest.raises(CheckpointError, match="dlm train policy"):
            samplers.policy(tmp_path / f"{name}.safetensors")
    for odd in ({"bias": torch.tensor(torch.nan)}, {"head": torch.zeros(3)}, {"slope": torch.zeros(3)}):
        with pytest.raises(SettingsError, match="policy"):
            Policy({**policy.weights, **odd})
    with pytest.raises(SettingsError, match="train it anew"):
        Policy({})
    with pytest.raises(SettingsError, match="give policy=PATH"):
        dlm.generate(MODEL, [1], sampler="policy", max_new_tokens=4)
