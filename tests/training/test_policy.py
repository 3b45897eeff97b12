"""Training of an unmasking policy: what was drawn, how likely it was, rewards, and a run that is killed."""

import json

import pytest
import torch

import dlm
import samplers
from dlm.api import Run
from dlm.commands.train_policy import run as train_policy
from dlm.errors import SettingsError
from dlm.prompts import prompt_job
from dlm.tasks.registry import open_task
from dlm.training.policy import Unmasking, UnmaskingTraining, Watch, log_probs
from dlm.training.policy_file import Policy, read_policy

TASKS = [open_task("waiting_line/copy"), open_task("arithmetic/addition")]


@pytest.fixture(scope="module")
def tiny():
    return dlm.load("tiny", device="cpu")


def make(policy, explore):
    return samplers.policy(policy, explore=explore)


def job(model, checkpoint=None, judge=None, **settings):
    given = {"steps": 3, "warmup_steps": 1, "questions": 2, "answers": 4, "held_out": 0, "checkpoint_minutes": 0.0}
    return Unmasking(model, TASKS, make, UnmaskingTraining(**{**given, **settings}), checkpoint, judge=judge)


def test_the_watch_notes_what_was_drawn_and_its_probability(tiny):
    policy = Policy.fresh(0.9)
    jobs = [prompt_job(tiny, i, "47+85=", 16, {}) for i in range(3)]
    watch = Watch(policy)
    runs = Run(tiny, jobs, make(policy, True), None, None, 3, 2).collect(watch)
    shown, open_, positions, drawn = watch.states()
    assert len(watch.rows) == len(shown) == sum(run.counts.forwards for run in runs)
    for number, answer in enumerate(runs):
        for step, line in enumerate(i for i, row in enumerate(watch.rows) if row == number):
            places = positions[line] - len(answer.prompt_tokens)
            committed = [place for place, at in enumerate(answer.commit_step) if at == step]
            noted = places[drawn[line]].tolist()
            assert noted == committed or (noted == [] and len(committed) == 1)
            assert places[open_[line]].tolist() == [p for p, at in enumerate(answer.commit_step) if at >= step]
    # At the start a logit is that of the confidence, less that of 0.9.
    logits = 4 * shown[..., 1] - torch.logit(torch.tensor(0.9, dtype=torch.float64))
    chance = torch.sigmoid(torch.where(drawn, logits, -logits)).masked_fill(~open_, 1.0)
    assert torch.allclose(log_probs(policy.weights, watch.states())[:, 0], chance.log().sum(dim=1))


def test_fewer_forwards_are_worth_more_and_the_policy_learns_it(tiny):
    """Where every answer counts as right, a policy that waits learns not to."""
    lines = []
    how = {"threshold": None, "questions": 1, "baseline": "standardised", "alpha": 1.0}
    loop = job(tiny, steps=8, rate=0.1, decay_from=1.0, **how)
    loop.tasks[0] = loop.tasks[1] = _Right()
    loop.run(lines.append)
    assert lines[-1]["forwards"] < 0.9 * lines[0]["forwards"]
    assert all(line["reward"] == pytest.approx((16 - line["forwards"] + 1) / 16) for line in lines)  # alpha 1


class _Right:
    """A task where everything is right."""

    name, canvas, size = "right", 16, None

    def instance(self, index):
        return TASKS[0].instance(index)

    def judge(self, instance, output):
        return type("Verdict", (), {"score": 1.0})


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tiny, tmp_path):
    whole = job(tiny, tmp_path / "whole", micro_batch=5)
    whole.run()
    broken = job(tiny, tmp_path / "broken", micro_batch=5)
    broken.train_step(0.0)
    broken.save()
    resumed = job(tiny, tmp_path / "broken", micro_batch=5)
    assert resumed.progress.step == 1
    resumed.run()
    assert all(torch.equal(w, resumed.weights[name]) for name, w in whole.weights.items())
    assert any((w != Policy.fresh().weights[name]).any() for name, w in whole.weights.items())
    with pytest.raises(SettingsError, match="other settings"):
        job(tiny, tmp_path / "broken", micro_batch=5, alpha=2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"answers": 1}, "answers"), ({"alpha": -1.0}, "alpha"), ({"width": 3}, "width"), ({"threshold": 1.0}, "between")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        UnmaskingTraining(**{"steps": 1, **settings})


def test_the_command(tmp_path, capsys):
    settings = ["training.questions=1", "training.answers=2", "training.held_out=2", "pictures=false"]
    for steps in (1, 2):
        assert train_policy([f"out={tmp_path}", "task=waiting_line/copy", f"training.steps={steps}", *settings]) == 0
    assert "after: 100.0% right" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line] == [1, 2]
    made = read_policy(tmp_path / "policy.safetensors")
    assert made.card["tasks"] == ["waiting_line/copy"]
    chat = [{"role": "user", "content": "47+85="}]
    answer = dlm.generate("tiny", chat, sampler=samplers.policy(made), max_new_tokens=16)[0]
    assert answer.text.startswith("7+5=12")
    with pytest.raises(SettingsError, match="out=DIR"):
        train_policy(["pictures=false"])
