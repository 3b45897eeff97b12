"""From a run to a package: the exported folder loads, holds the averaged weights, and its card tells its figures."""

import json

import pytest
import torch

from dlm.errors import CheckpointError
from dlm.models import load
from dlm.training.card import write_card
from dlm.training.export import export


@pytest.fixture
def run(make_trainer, tokenizer, tmp_path):
    """The folder of a finished run, as scripts/train_tiny.py leaves it."""
    folder = tmp_path / "run"
    trainer = make_trainer(folder, steps=2)
    trainer.run()
    tokenizer.save_pretrained(folder / "tokenizer")
    trainer.model.config.save_pretrained(folder)
    settings = "device: cpu\nseed: 3\nrecipe: {ema: 0.997}\ntasks: {waiting_line/copy: [1.0, 0.0]}\n"
    (folder / "config.yaml").write_text(settings)
    lines = [{"step": 1, "loss": {"waiting_line/copy": 1.23456}}, {"step": 2, "accuracy": {"waiting_line/copy": 0.5}}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return trainer


def test_an_exported_run_loads_with_the_averaged_weights(run, tmp_path):
    history = export(run.folder, tmp_path / "model")
    model = load(tmp_path / "model")
    for name, value in model.backbone.state_dict().items():
        torch.testing.assert_close(value, run.average[name].half().float(), rtol=0, atol=0)
    assert history["progress"]["step"] == 2
    assert history["loss"][0]["loss"] == {"waiting_line/copy": 1.235}
    assert history["accuracy"] == [{"step": 2, "accuracy": {"waiting_line/copy": 0.5}}]
    assert model.decode(model.encode("Copy the list")) == "Copy the list"
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_card_carries_the_measured_table_until_other_weights_come(run, tmp_path):
    folder = tmp_path / "model"
    export(run.folder, folder)
    assert "Not measured yet" in (folder / "README.md").read_text()
    score = {"accuracy": 0.75, "forwards": 12.0}
    evaluation = {
        "n": 8,
        "block": 16,
        "columns": ["k=1"],
        "tasks": {"waiting_line/copy": {"canvas": 32, "scores": {"k=1": score}}},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    write_card(folder)
    assert "| waiting_line/copy | 32 | 75 / 12.0 |" in (folder / "README.md").read_text()
    export(run.folder, folder)
    assert not (folder / "evaluation.json").exists()


def test_a_run_without_a_checkpoint_cannot_be_exported(tmp_path):
    with pytest.raises(CheckpointError, match="train first"):
        export(tmp_path, tmp_path / "model")
