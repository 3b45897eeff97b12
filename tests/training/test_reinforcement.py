"""Estimators, objectives, and training on rollouts: worked numbers, and a run that a kill does not change."""

import json

import pytest
import torch

import dlm
import samplers
from dlm.commands.train_rl import run as train_rl
from dlm.errors import SettingsError
from dlm.models import LanguageModel, LLaDAConfig, LLaDAModelLM
from dlm.replaying import Trajectory, replay
from dlm.tasks.registry import open_task
from dlm.training import estimators
from dlm.training.estimators import counted, log_probs
from dlm.training.objectives import advantages, k3, surrogate, token_weights, transition_weights
from dlm.training.reinforcement import PolicyTraining, Reinforcement
from dlm.training.trainee import Trainee

SAMPLER = samplers.topk(tokens_per_step=8, temperature=1.0)
TASK = open_task("waiting_line/copy")


def network(tokenizer, seed=5):
    """A random model of one layer, with weights that want gradients."""
    torch.manual_seed(seed)
    size = len(tokenizer)
    config = LLaDAConfig(
        d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=48, rope_theta=1000.0, max_sequence_length=128,
        vocab_size=size, embedding_size=size, mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LanguageModel(LLaDAModelLM(config).eval(), tokenizer, "small")


@pytest.fixture
def small(tokenizer):
    return network(tokenizer)


def job(model, checkpoint=None, reward=None, lora=None, **settings):
    given = {"steps": 4, "warmup_steps": 1, "decay_from": 1.0, "questions": 2, "answers": 4, "held_out": 0}
    how = PolicyTraining(**{**given, "rate": 1e-2, "checkpoint_minutes": 0.0, **settings})
    many = reward or (lambda instance, run: sum(sign.isdigit() for sign in run.text))
    return Reinforcement(Trainee.of(model, lora), TASK, SAMPLER, how, checkpoint, many)


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    mean = advantages(rewards)
    assert mean.tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]
    assert torch.allclose(advantages(rewards, "leave_one_out"), mean * 4 / 3)
    assert advantages(rewards, "standardised")[0, 0] == pytest.approx(0.5 / (0.57735 + 1e-4), rel=1e-4)
    for odd, message in ((torch.ones(2, 1), "at least 2"), (torch.tensor([[1.0, torch.nan]]), "answer 1 is nan")):
        with pytest.raises(SettingsError, match=message):
            advantages(odd)
    with pytest.raises(SettingsError, match="leave_one_out"):
        advantages(rewards, "median")


@pytest.mark.parametrize(("worth", "expected"), [(1.0, -0.75), (-1.0, 0.8)])
def test_the_loss_of_a_trajectory_by_hand(worth, expected):
    """Two steps with ratios 1.0 and 1.2, and 0.4; the clip at 0.5 is active for the bad answer alone."""
    ratios = torch.tensor([[1.0, 1.2, 0.4]])
    rows = [Trajectory([1], [5, 6, 7], [0, 0, 1])]
    weights = transition_weights(rows, counted(rows))
    assert weights.tolist() == [[0.25, 0.25, 0.5]]
    each = surrogate(ratios.log(), torch.zeros(1, 3), torch.tensor([worth]), 0.5)
    assert float((each * weights).sum()) == pytest.approx(expected)


def test_at_ratio_one_the_surrogate_is_the_policy_gradient_and_k3_vanishes_there_alone():
    new = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    surrogate(new, new.detach(), torch.tensor([3.0]), 0.2).sum().backward()
    assert new.grad.tolist() == [[-3.0, -3.0]]
    assert k3(new, new).abs().max() == 0
    assert (k3(new, new + torch.tensor([[0.3, -0.3]])) > 0).all()


def test_what_counts_ends_with_the_first_end_token():
    rows = [Trajectory([1], [5, 9, 6], [0, 1, 1]), Trajectory([1], [5, 6], [-1, 0])]
    assert counted(rows, [9]).tolist() == [[True, True, False], [False, True, False]]
    assert counted(rows).tolist() == [[True, True, True], [False, True, False]]
    assert token_weights(counted(rows, [9])).sum() == 1


def test_coupled_states_ask_for_every_token_twice_with_the_published_weights():
    row = Trajectory([3, 4], list(range(10, 40)), [i // 4 for i in range(30)])
    whole, part, rest = estimators._coupled(0, 7, row, seed=11)
    assert sorted(part.places + rest.places) == whole.places == list(range(30))
    t = 0.5 / part.weight
    assert 0.2 <= t <= 0.8
    assert rest.weight == pytest.approx(0.5 / (1 - t))
    assert part.canvas[:2] == [3, 4]
    assert [place for place, token in enumerate(part.canvas[2:]) if token == 0] == part.places
    # A constant log-probability l gives 1.5 l on average; with t = .25 a token of the part 0.5 l + 2 l'.
    sums = []
    for seed in range(400):
        _, one, other = estimators._coupled(0, 0, row, seed)
        sums.append((len(one.places) * one.weight + len(other.places) * other.weight) / 30 + 0.5)
    assert sum(sums) / len(sums) == pytest.approx(1.5, abs=0.03)
    assert 0.5 * -1 + 0.5 / 0.25 * -0.8 == pytest.approx(-2.1)


def test_the_estimators_see_what_they_say(small, monkeypatch):
    run = dlm.generate(small, ["47+85="], sampler=SAMPLER, max_new_tokens=16)[0]
    rows = [Trajectory.of(run), Trajectory.of(run)]
    assert torch.equal(log_probs(small, rows), replay(small, rows).log_probs)
    full = log_probs(small, rows, "full", seed=1)
    assert torch.equal(full, log_probs(small, rows, "full", seed=1, micro_batch=1))
    assert not torch.equal(full, log_probs(small, rows, "full", seed=2))  # other tokens of the prompt are masked
    mask = small.description.mask_id
    prompt, answer = run.prompt_tokens, torch.tensor(run.tokens)
    monkeypatch.setattr(estimators, "_noise", lambda seed, number: torch.Generator().manual_seed(1))
    drawn = torch.rand(len(prompt), generator=torch.Generator().manual_seed(1)) < 0.15
    fed = torch.tensor([[mask if hide else p for p, hide in zip(prompt, drawn, strict=True)] + [mask] * 16])
    logits = small.backbone.head(small.backbone.hidden(fed))[0, len(prompt) :]
    assert torch.allclose(log_probs(small, rows, "full")[0], logits.log_softmax(1)[range(16), answer], atol=1e-6)
    with pytest.raises(SettingsError, match="trajectory, full, coupled"):
        log_probs(small, rows, "exact")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "x"}, "estimator"), ({"answers": 1}, "at least 2"), ({"questions": 0}, "questions"),
        ({"ratio_clip": 0.0}, "ratio_clip"), ({"weighting": "x"}, "weighting"), ({"steps": None}, "budget"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        PolicyTraining(**{"steps": 1, **settings})


@pytest.mark.parametrize("estimator", ["trajectory", "full", "coupled"])
def test_the_reward_rises(small, estimator):
    """A bandit: the more digits, the better."""
    lines = []
    job(small, estimator=estimator, steps=24, rate=2e-2).run(lines.append)
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[-6:]) > 1.5 * sum(rewards[:6])


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tokenizer, tmp_path):
    """With two updates a rollout, a divergence from the first weights, and an adapter."""
    settings = {"iterations": 2, "kl": 0.1, "estimator": "coupled", "weighting": "transitions", "lora": 2}

    whole = job(network(tokenizer, 6), tmp_path / "whole", **settings)
    whole.run()
    broken = job(network(tokenizer, 6), tmp_path / "broken", **settings)
    for _ in range(2):
        broken.train_step(0.0)
    broken.save()
    resumed = job(network(tokenizer, 6), tmp_path / "broken", **settings)
    assert resumed.progress.step == 2
    resumed.run()
    assert all(torch.equal(w, resumed.weights[name]) for name, w in whole.weights.items())
    assert whole.progress.tokens == resumed.progress.tokens
    with pytest.raises(SettingsError, match="other settings"):
        job(network(tokenizer, 6), tmp_path / "broken", **{**settings, "kl": 0.2})


def test_rollouts_keep_the_batch_full(small, monkeypatch):
    """16 questions, 8 answers to each, of unequal length: until the last rows are in, at least nine of ten are busy."""
    sizes, hidden = [], small.backbone.hidden
    monkeypatch.setattr(small.backbone, "hidden", lambda tokens, *a: (sizes.append(len(tokens)), hidden(tokens, *a))[1])
    given = {"questions": 16, "answers": 8, "batch_size": 16, "reward": lambda instance, run: 1.0}
    loop = job(small, **given)
    loop.sampler = samplers.threshold(0.02, temperature=1.0)
    loop.train_step(0.0)
    tail = next(i for i in range(len(sizes)) if all(size < 16 for size in sizes[i:]))
    assert sum(sizes[:tail]) / tail >= 0.9 * 16
    assert tail > len(sizes) / 2


def test_equal_rewards_change_nothing_and_are_said(small):
    before = {name: w.clone() for name, w in small.backbone.named_parameters()}
    lines = []
    job(small, reward=lambda instance, run: 1.0).run(lines.append)
    assert [line["equal"] for line in lines] == [1.0] * 4
    assert all(torch.equal(w, before[name]) for name, w in small.backbone.named_parameters())
    with pytest.raises(SettingsError, match="is nan: return a finite number"):
        job(small, reward=lambda instance, run: float("nan")).run()


def test_an_adapter_is_all_that_is_trained_and_loads_again(tmp_path):
    model = dlm.load("tiny", device="cpu", trainable=True)
    loop = job(model, lora=2, steps=1)
    assert all("lora_" in name for name in loop.weights)
    loop.run()
    for name, weight in loop.weights.items():
        torch.nn.init.normal_(weight, std=2.0 if "lora_B" in name else 0.1)
    loop.trainee.keep(tmp_path / "adapter")
    again = dlm.load("tiny", device="cpu", adapter=tmp_path / "adapter")

    def answer(asked):
        return dlm.generate(asked, "47+85=", sampler="threshold", max_new_tokens=16)[0].tokens

    assert answer(again) == answer(model) != answer("tiny")
    with loop.trainee.reference() as before:
        assert answer(before) == answer("tiny")
    with pytest.raises(SettingsError, match="trainable=True"):
        Trainee.of(again)


def test_the_command(tmp_path, capsys):
    settings = ["training.questions=1", "training.answers=2", "training.held_out=2", "pictures=false"]
    assert train_rl([f"out={tmp_path}", "task=waiting_line/copy", "training.steps=2", *settings]) == 0
    assert train_rl([f"out={tmp_path}", "task=waiting_line/copy", "training.steps=3", *settings]) == 0
    assert "held-out questions" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line] == [1, 2, 3]
    assert dlm.load(tmp_path / "model").tokenizer is not None
    with pytest.raises(SettingsError, match="out=DIR"):
        train_rl(["pictures=false"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["drafting=freedave"], "drafting"),
        (["max_new_tokens=7"], "canvas"),
        (["model.dtype=bfloat16"], "rounds small steps"),
        (["training.steps=0"], "steps must be at least 1"),
        (["training.lora=0"], "lora must be a rank"),
        (["model=tiny-block", "sampler=topk"], "block-diffusion"),
    ],
)
def test_what_would_not_train_is_refused(words, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        train_rl([f"out={tmp_path / 'out'}", "pictures=false", *words])


def test_only_settings_that_decide_keep_a_run_from_going_on(tokenizer, tmp_path):
    first = job(network(tokenizer), tmp_path / "run", steps=1)
    first.run()
    with pytest.raises(SettingsError, match=r"settings.rate: 0.01, now 0.001"):
        job(network(tokenizer), tmp_path / "run", rate=1e-3)
    job(network(tokenizer), tmp_path / "run", batch_size=2, micro_batch=3)  # decides nothing
