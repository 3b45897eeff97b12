"""The trainer: a resumed run equals an uninterrupted one, a kill loses nothing older, settings are checked."""

import json
import subprocess
import sys

import pytest
import torch

from dlm.errors import CheckpointError, SettingsError
from dlm.training.checkpoint import read_checkpoint, write_checkpoint
from dlm.training.muon import Muon, orthogonalise
from dlm.training.trainer import Recipe


def weights(trainer):
    return {**trainer.model.state_dict(), **{f"average {k}": v for k, v in trainer.average.items()}}


def test_a_resumed_run_equals_an_uninterrupted_one(make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.run()
    part = make_trainer(tmp_path / "parts")
    for _ in range(3):
        part.train_step(part.recipe.share(part.progress.step, 0))
    part.save()
    resumed = make_trainer(tmp_path / "parts")
    assert resumed.progress.step == 3
    resumed.run()
    assert resumed.progress.step == whole.progress.step == 6
    assert resumed.progress.tokens == whole.progress.tokens == 6 * 192
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_training_lowers_the_loss_and_reports(make_trainer, tmp_path):
    lines = []
    trainer = make_trainer(tmp_path, steps=100, decay_from=0.8)
    trainer.run(lines.append)
    first, last = (line["loss"]["waiting_line/copy"] for line in lines)
    assert last < first
    assert lines[-1]["step"] == 100
    assert lines[-1]["tokens"] == 100 * 192


def test_an_extended_budget_goes_on(make_trainer, tmp_path):
    make_trainer(tmp_path, steps=2).run()
    longer = make_trainer(tmp_path, steps=4)
    longer.run()
    assert longer.progress.step == 4


def test_a_run_can_start_from_given_weights_once(make_trainer, tmp_path):
    given = make_trainer(tmp_path / "given", steps=2)
    given.run()
    fresh = make_trainer(tmp_path / "fresh", steps=2)
    fresh.start_from(given.model.state_dict())
    assert all(torch.equal(fresh.average[name], p) for name, p in given.model.named_parameters())
    before = weights(given)["average model.transformer.wte.weight"].clone()
    given.start_from(fresh.model.state_dict())
    assert torch.equal(weights(given)["average model.transformer.wte.weight"], before)


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"x": torch.arange(3)}, {"step": 1})
    program = (
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from dlm.training import checkpoint\n"
        "Path.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.write_checkpoint(Path(sys.argv[1]), {'x': torch.zeros(3)}, {'step': 2})\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path]).returncode == -9
    state, progress = read_checkpoint(path)
    assert progress == {"step": 1}
    assert state["x"].tolist() == [0, 1, 2]


def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.save()
    whole = trainer.checkpoint.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\0" * 64):
        trainer.checkpoint.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="remove it"):
            make_trainer(tmp_path)


def test_checkpoints_are_safetensors_with_their_progress(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, steps=1)
    trainer.run()
    state, progress = read_checkpoint(trainer.checkpoint)
    assert json.loads(json.dumps(progress))["step"] == 1
    assert {name.split(".")[0] for name in state} == {"model", "average", "optimizer0", "optimizer1"}


@pytest.mark.parametrize(
    "settings",
    [{}, {"minutes": 1, "steps": 1}, {"steps": 1, "decay_from": 1.5}, {"steps": 1, "dtype": "float16"}],
)
def test_impossible_recipes_are_refused(settings):
    with pytest.raises(SettingsError):
        Recipe(**settings)


def test_the_rates_rise_hold_and_fall():
    recipe = Recipe(minutes=10, warmup_steps=10, decay_from=0.5)
    assert recipe.rate_factor(0, 0.0) == pytest.approx(0.1)
    assert recipe.rate_factor(50, 0.49) == 1
    assert recipe.rate_factor(50, 0.75) == pytest.approx(0.5)
    assert recipe.rate_factor(50, 1.0) == 0
    assert recipe.share(0, 300) == pytest.approx(0.5)
    assert recipe.share(0, 900) == 1


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 12, 6), (3, 6, 20)])
def test_orthogonalised_updates_have_singular_values_near_one(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(update)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    overlap = ((u @ v) * result).sum() / ((u @ v).norm() * result.norm())
    assert overlap > 0.97


def test_muon_moves_against_the_gradient_at_the_given_rate():
    p = torch.nn.Parameter(torch.zeros(6, 4))
    p.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    gradient = p.grad.clone()
    Muon([p], lr=0.1).step()
    assert (p.detach() * gradient).sum() < 0
    assert torch.linalg.svdvals(p.detach()).max() < 0.1 * 1.3 * (6 / 4) ** 0.5
