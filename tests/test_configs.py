"""The configuration folder itself: every file composes, builds, and says the same as Python."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

import cache
import dlm
import samplers
from dlm.configuration import compose_config
from dlm.errors import SettingsError
from dlm.overrides import GROUPS, choices, config_dir
from samplers.presets.options import Options

CHOICES = [(group, choice) for group in GROUPS for choice in choices(group)]
HUB_IDS = {
    "tiny": "tiny",
    "llada-8b-instruct": "GSAI-ML/LLaDA-8B-Instruct",
    "llada-8b-base": "GSAI-ML/LLaDA-8B-Base",
    "llada-1.5": "GSAI-ML/LLaDA-1.5",
    "dream-7b-instruct": "Dream-org/Dream-v0-Instruct-7B",
    "dream-7b-base": "Dream-org/Dream-v0-Base-7B",
    "diffucoder-7b-instruct": "apple/DiffuCoder-7B-Instruct",
    "dream-coder-7b-instruct": "Dream-org/Dream-Coder-v0-Instruct-7B",
    "tiny-block": "tiny-block",
    "sdar-1.7b-chat": "JetLM/SDAR-1.7B-Chat",
    "sdar-4b-chat": "JetLM/SDAR-4B-Chat",
    "sdar-8b-chat": "JetLM/SDAR-8B-Chat",
    "sdar-30b-a3b-chat": "JetLM/SDAR-30B-A3B-Chat",
    "trado-4b-instruct": "Gen-Verse/TraDo-4B-Instruct",
    "trado-8b-instruct": "Gen-Verse/TraDo-8B-Instruct",
    "fast-dllm-v2-1.5b": "Efficient-Large-Model/Fast_dLLM_v2_1.5B",
    "fast-dllm-v2-7b": "Efficient-Large-Model/Fast_dLLM_v2_7B",
    "llada-moe-7b-a1b-base": "inclusionAI/LLaDA-MoE-7B-A1B-Base",
    "llada-moe-7b-a1b-instruct": "inclusionAI/LLaDA-MoE-7B-A1B-Instruct",
    "llada2.0-mini": "inclusionAI/LLaDA2.0-mini",
    "llada2.0-mini-cap": "inclusionAI/LLaDA2.0-mini-CAP",
    "llada2.0-flash": "inclusionAI/LLaDA2.0-flash",
    "llada2.1-mini": "inclusionAI/LLaDA2.1-mini",
    "llada2.1-flash": "inclusionAI/LLaDA2.1-flash",
    "local": "somewhere",
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_builds(group: str, choice: str) -> None:
    extra = ["model.path=somewhere"] if choice == "local" else []
    composed = dlm.compose([f"{group}={choice}", *extra])
    assert isinstance(composed.sampler, dlm.Sampler)
    assert composed.cache is not None
    assert (composed.drafter is None) == (group != "drafting" or choice == "none")
    assert composed.model_config == composed.config["model"]
    if group == "model":
        assert composed.model_config["name_or_path"] == HUB_IDS[choice]
        assert composed.model_config["_target_"] == "dlm.load"


def test_no_model_is_missing() -> None:
    assert set(choices("model")) == set(HUB_IDS)


def test_every_file_is_reached_by_a_test() -> None:
    """A folder of conf/ without a group here would ship untested."""
    folders = {path.name for path in config_dir().iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "train", "task", "grid", "recipe"}  # test_registry.py, test_grid.py, test_recipes.py


@pytest.mark.parametrize("name", [path.stem for path in sorted(config_dir().glob("*.yaml"))])
def test_every_command_configuration_composes_and_leaves_no_folder(name: str) -> None:
    config = compose_config(name, [])
    assert "hydra" not in config  # Hydra's own part configures Hydra only
    text = (config_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    assert "output_subdir: null" in text
    assert "dir: ." in text


@pytest.mark.parametrize("name", samplers.PRESETS)
def test_yaml_states_the_defaults_of_python(name: str) -> None:
    """Each setting of a preset and of ``Options`` stands in the YAML with the value Python has."""
    node = dict(compose_config("generate", [f"sampler={name}"]).sampler)
    for field in dataclasses.fields(Options):
        if field.name != "blocks":
            assert node.pop(field.name) == field.default, field.name
    assert node.pop("_target_") == f"samplers.{name}"
    node.pop("blocks")
    parameters = inspect.signature(getattr(samplers, name)).parameters.values()
    assert node == {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


@pytest.mark.parametrize("name", cache.PRESETS)
def test_yaml_states_the_defaults_of_caches(name: str) -> None:
    assert dlm.compose([f"cache={name}"]).cache == getattr(cache, name)()
    parameters = set(inspect.signature(getattr(cache, name)).parameters)
    assert set(compose_config("generate", [f"cache={name}"]).cache) - {"_target_"} == parameters


def test_parts_spelled_out_are_the_preset() -> None:
    spelled = dlm.compose(["sampler=parts"]).sampler
    assert spelled == dataclasses.replace(samplers.threshold(0.9), name="parts")


@pytest.mark.parametrize("name", [n for n in samplers.PRESETS if n.startswith("dream_")])
def test_dream_takes_the_whole_canvas_by_itself_and_refuses_blocks(name: str) -> None:
    assert dlm.compose([f"sampler={name}", "sampler.steps=64"]).sampler.blocks == samplers.Whole()
    assert dlm.compose([f"sampler={name}", "blocks=whole"]).sampler.blocks == samplers.Whole()
    for refused in ("blocks=fixed", "blocks.length=16"):
        with pytest.raises(SettingsError, match="blocks=whole"):
            dlm.compose([f"sampler={name}", refused])


@pytest.mark.parametrize(
    ("overrides", "blocks"),
    [
        ([], samplers.Fixed()),
        (["blocks.length=16"], samplers.Fixed(16)),
        (["blocks=fixed"], samplers.Fixed(32)),
        (["blocks=fixed", "blocks.length=8"], samplers.Fixed(8)),
        (["blocks=whole"], samplers.Whole()),
        (["sampler=pc"], samplers.Whole()),
        (["sampler=pc", "blocks.length=16"], samplers.Fixed(16)),
        (["sampler=pc", "blocks=fixed"], samplers.Fixed(32)),
        (["sampler=pc", "blocks={_target_: samplers.Fixed}"], samplers.Fixed()),
        (["sampler=wino"], samplers.Fixed(usual=128)),
        (["sampler=wino", "blocks=fixed"], samplers.Fixed(32)),
        (["sampler=parts"], samplers.Fixed()),
    ],
)
def test_blocks(overrides: list[str], blocks: Any) -> None:
    assert dlm.compose(overrides).sampler.blocks == blocks


def test_blocks_that_nobody_asked_for_are_recorded_as_they_always_were() -> None:
    # Folders of results are named after a hash of this.
    config = dlm.compose(["sampler=pc"]).config
    assert config["blocks"] == config["sampler"]["blocks"] == {"_target_": "samplers.Fixed", "length": None}


def test_yaml_answers_as_python_does(tmp_path: Path) -> None:
    model = dlm.load("tiny")
    composed = dlm.compose(
        ["sampler=random", "sampler.tokens_per_step=4", "sampler.temperature=0.7", "blocks.length=8", "seed=5"]
    )
    written = samplers.random(tokens_per_step=4, temperature=0.7, blocks=samplers.Fixed(8))
    from_yaml = dlm.generate(
        composed.load_model(), ["47+85="], sampler=composed.sampler, cache=composed.cache, drafter=composed.drafter,
        max_new_tokens=24, seed=composed.seed, batch_size=composed.batch_size,
    )  # fmt: skip
    from_python = dlm.generate(model, ["47+85="], sampler=written, max_new_tokens=24, seed=5)
    assert from_yaml[0].tokens == from_python[0].tokens
    assert from_yaml[0].commit_step == from_python[0].commit_step
