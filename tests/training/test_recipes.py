"""The configured recipes: both compose, name known tasks, and make a model that fits the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize
from omegaconf import OmegaConf

from dlm import tasks
from dlm.commands.train_tiny import evaluator, parts
from dlm.models import LLaDAModelLM

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("recipe", ["cpu", "gpu"])
def test_a_recipe_describes_a_model_within_the_limit(recipe, tokenizer):
    with initialize(version_base="1.3", config_path="../../conf"):
        settings = OmegaConf.to_container(compose("train_tiny", overrides=[f"train={recipe}"]), resolve=True)
    config, recipe_, data = parts(settings, tokenizer)
    with torch.device("meta"):
        model = LLaDAModelLM(config)
    assert sum(2 * p.numel() for p in model.parameters()) <= 16 * 10**6
    assert set(settings["tasks"]) == set(tasks.names())
    assert 0 < recipe_.minutes
    assert max(data.curriculum.lengths) <= config.max_sequence_length
    assert callable(evaluator(settings))


@pytest.mark.slow
def test_the_script_trains_goes_on_and_logs(tmp_path):
    settings = (
        f"folder={tmp_path} recipe.minutes=null tokens_per_batch=96 evaluation.n=1 model.d_model=16 model.n_layers=1 "
        "model.n_heads=2 model.mlp_hidden_size=16 ~tasks +tasks={waiting_line/copy:[1.0,0.0]}"
    ).split()
    for steps in (2, 3):
        command = [sys.executable, "scripts/train_tiny.py", *settings, f"+recipe.steps={steps}"]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
        assert last["step"] == steps
        assert list(last["accuracy"]) == ["waiting_line/copy"]
    assert {p.name for p in tmp_path.iterdir()} >= {"checkpoint.safetensors", "config.yaml", "config.json", "tokenizer"}
