"""What a config.json can say: each field in every spelling, or one error that names it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import dlm
import samplers
from dlm.errors import CheckpointError, DlmError, SettingsError
from dlm.models import DreamConfig, LLaDAConfig
from dlm.models.checkpoint import TINY
from dlm.models.loading import read_config
from dlm.models.masked_lm import MaskedLMConfig
from tests.models.checkpoints import DATA

FAULTS = json.loads((DATA.parent / "config_faults.json").read_text())  # what differs from the packaged config.json
PACKAGED = json.loads((TINY / "config.json").read_text())
FAMILIES = {"llada": TINY / "config.json", "dream": DATA / "dream_tiny" / "config.json"}
WRONG = [True, -1, 1.5, math.nan, math.inf, 1e9, 10**400, "", "x", "9" * 5000, [], [None], {}, {"a": 1}]


def changed(folder: Path, base: Path, fields: dict[str, Any]) -> Path:
    config = json.loads(base.read_text()) | fields
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
    return folder


def theta(folder: Path, base: Path, fields: dict[str, Any]) -> float:
    return read_config(changed(folder, base, fields))[1].architecture().rope_theta


@pytest.mark.parametrize("name", ["rope_parameters_default", "text_number"])
def test_other_forms_of_the_packaged_config_answer_as_it_does(name: str, tmp_path: Path) -> None:
    folder = changed(Path(shutil.copytree(TINY, tmp_path / "model")), TINY / "config.json", FAULTS[name])
    for wanted, found in zip(
        *(
            dlm.generate(model, ["47+85="], sampler=samplers.threshold(0.9), max_new_tokens=16)
            for model in ("tiny", folder)
        ),
        strict=True,
    ):
        assert (found.tokens, found.commit_step) == (wanted.tokens, wanted.commit_step)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rope_parameters_linear", "rope_parameters asks for rope_type 'linear', which is not supported"),
        ("rope_parameters_yarn", "rope_parameters asks for rope_type 'yarn', which is not supported"),
        ("gptq", "are quantised with gptq .quantization_config in .*load the unquantised model"),
        ("huge_layers", "n_layers must be from 1 to 1000, got 1000000000"),
        ("theta_true", "rope_theta must be a number of at least 0, got True"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(name: str, message: str, tmp_path: Path) -> None:
    folder = changed(Path(shutil.copytree(TINY, tmp_path / "model")), TINY / "config.json", FAULTS[name])
    with pytest.raises(DlmError, match=message):
        dlm.load(folder, device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 7e3},
        {"rope_theta": "7000"},
        {"rope_theta": 7e3, "rope_scaling": {"rope_type": "default"}},
        {"rope_theta": 7e3, "rope_scaling": {"type": "default"}},
        {"rope_theta": 7e3, "rope_scaling": None, "rope_parameters": None},
        {"rope_theta": 7e3, "rope_parameters": {"rope_type": None, "partial_rotary_factor": 1.0}},
        {"rope_theta": "absent", "rope_parameters": {"rope_type": "default", "rope_theta": 7e3}},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 7000}},
        {"rope_theta": "absent", "rope_scaling": {"rope_type": "default", "rope_theta": 7e3}},
        {"rope_theta": 7e3, "rope_parameters": {"rope_type": "default", "rope_theta": 7e3}},
        {"rope_theta": "absent", "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 7e3}}},
    ],
)
def test_the_rotary_base_is_read_wherever_it_stands(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    assert theta(tmp_path, FAMILIES[family], fields) == 7000


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(({"rope_scaling": {"type": kind}}, f"rope_scaling asks for rope_type '{kind}'")
          for kind in ("linear", "dynamic", "yarn", "longrope", "llama3", "su", "mrope")),
        ({"rope_scaling": {"rope_type": "default", "type": "yarn"}}, "'yarn'"),
        ({"rope_scaling": {"factor": 4.0}}, "factor without a rope_type"),
        ({"rope_parameters": {"rope_type": 3}}, "rope_type 3"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        ({"rope_parameters": {"rope_theta": 5.0}}, r"rope_parameters.rope_theta=5.0 and rope_theta=.* contradict"),
        ({"rope_parameters": {"rope_theta": True}}, "rope_parameters.rope_theta must be a number"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ({"rope_theta": "absent", "rope_parameters": {"full_attention": {"rope_theta": 5.0},
          "sliding_attention": {"rope_theta": 6.0}}}, "full_attention.rope_theta=5.0 and .*sliding_attention"),
        ({"rope_theta": "absent"}, "does not name rope_theta"),
    ],
)  # fmt: skip
def test_other_rotations_are_refused(family: str, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DlmError, match=message):
        theta(tmp_path, FAMILIES[family], fields)


@pytest.mark.parametrize(
    ("family", "own", "other"),
    [
        *((LLaDAConfig, own, other) for other, own in LLaDAConfig.attribute_map.items()),
        *((DreamConfig, own, other) for other, own in DreamConfig.spellings.items()),
    ],
)
def test_every_size_has_two_spellings(family: type[MaskedLMConfig], own: str, other: str) -> None:
    value = not family.fields[own] if isinstance(family.fields[own], bool) else 8
    assert getattr(family(**{other: value}), own) == value
    if value == 8:
        assert getattr(family(**{other: " 8 "}), own) == getattr(family(**{own: 8, other: None}), own) == 8
        with pytest.raises(SettingsError, match=f"{own}=4 and {other}=8 contradict"):
            family(**{own: 4, other: 8})


def test_what_no_shape_tells_must_stand_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not name n_heads or num_attention_heads"):
        read_config(changed(tmp_path, FAMILIES["llada"], {"n_heads": "absent"}))
    other = changed(tmp_path, FAMILIES["llada"], {"n_heads": "absent", "num_attention_heads": 4})
    assert read_config(other)[1].architecture().heads == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_of_the_wrong_kind_is_named(family: str, tmp_path: Path) -> None:
    config = (LLaDAConfig if family == "llada" else DreamConfig).fields
    numbers = [name for name, default in config.items() if isinstance(default, int | float)]
    for name in numbers:
        for value in WRONG:
            switch = isinstance(config[name], bool)
            if (switch and value is True) or (value == 1.5 and isinstance(config[name], float)):
                continue
            if value == 1e9 and name in ("max_window_layers", "rope_theta"):
                continue
            with pytest.raises(SettingsError, match=name):
                read_config(changed(tmp_path, FAMILIES[family], {name: value}))
    for field, value in (("architectures", [[]]), ("model_type", 3), ("dtype", [1]), ("rms_norm_eps", 1e30)):
        with pytest.raises(DlmError, match=field):
            read_config(changed(tmp_path, FAMILIES[family], {field: value}))


def test_what_transformers_would_act_on_goes_nowhere(tmp_path: Path) -> None:
    strange = {"transformers_weights": "../x.safetensors", "attn_implementation": "nope", "id2label": 7, "to_dict": 1}
    config = read_config(changed(tmp_path, FAMILIES["llada"], strange))[1]
    assert callable(config.to_dict)
    assert not hasattr(config, "transformers_weights")
