"""LoRA adapters: what peft made, merged, is W + B A alpha / r; everything else is one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import dlm
from dlm.errors import CheckpointError, SettingsError
from dlm.models import adapters

PARTS = {
    "llada_tiny": ["q_proj", "v_proj", "ff_proj", "up_proj", "attn_out"],
    "dream_tiny": ["q_proj", "v_proj", "gate_proj", "down_proj", "o_proj"],
}
TOKENS = torch.arange(3, 27).view(2, 12)


def make(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter of random numbers for a checkpoint, saved by peft."""
    torch.manual_seed(3)
    model: Any = dlm.load(base, device="cpu").backbone
    model.unpack()
    placed = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 12, **settings}))
    for name, weight in placed.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    placed.save_pretrained(folder)
    return change(folder, base_model_name_or_path=str(base))


def change(folder: Path, **fields: Any) -> Path:
    settings = json.loads((folder / "adapter_config.json").read_text()) | fields
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def made(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: make(checkpoints[name], root / name, target_modules=parts) for name, parts in PARTS.items()}


@pytest.fixture
def adapter(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of an adapter for llada_tiny, to be damaged."""
    return Path(shutil.copytree(made["llada_tiny"], tmp_path / "adapter"))


def logits(model: dlm.LanguageModel) -> torch.Tensor:
    return model.backbone.head(model.backbone.hidden(TOKENS))


@pytest.mark.parametrize("family", PARTS)
def test_the_sum_of_base_and_adapter(family: str, checkpoints: dict[str, Path], made: dict[str, Path]) -> None:
    before = (checkpoints[family] / "model.safetensors").read_bytes()
    merged = dlm.load(checkpoints[family], adapter=made[family], device="cpu")
    byhand: Any = dlm.load(checkpoints[family], device="cpu")
    byhand.backbone.unpack()
    bare = logits(byhand)
    matrices = load_file(made[family] / "adapter_model.safetensors")
    changed = [name for name in matrices if name.endswith("lora_A.weight")]
    assert len(changed) == 4 * len(PARTS[family])
    for name in changed:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        b = matrices[name.replace("lora_A", "lora_B")]
        byhand.backbone.get_submodule(module).weight += b @ matrices[name] * 12 / 4
    assert (logits(merged) - logits(byhand)).abs().max() < 1e-5
    assert (logits(merged) - bare).abs().max() > 0.1
    assert not any("lora" in name for name, _ in merged.backbone.named_modules())
    assert not any(weight.requires_grad for weight in merged.backbone.parameters())
    assert (checkpoints[family] / "model.safetensors").read_bytes() == before  # weights are mapped from the file


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "wte"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"blocks.1.q_proj": 5}},
        {"target_modules": ["q_proj"], "use_rslora": True, "modules_to_save": ["model.transformer.ff_out"]},
        {"target_modules": ["ff_out"], "use_dora": True, "layers_to_transform": [1], "layers_pattern": "blocks"},
    ],
    ids=["all", "patterns", "saved", "dora"],
)
def test_kinds_of_lora(settings: dict[str, Any], checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """As peft itself loads them."""
    from peft import PeftModel

    base = checkpoints["llada_tiny"]
    folder = make(base, tmp_path / "adapter", **settings)
    model: Any = dlm.load(base, device="cpu")
    model.backbone.unpack()
    model = PeftModel.from_pretrained(model.backbone, folder).merge_and_unload()
    wanted = model.head(model.hidden(TOKENS))
    assert (logits(dlm.load(base, adapter=folder, device="cpu")) - wanted).abs().max() < 1e-5


def test_an_adapter_finds_its_base(made: dict[str, Path], adapter: Path, checkpoints: dict[str, Path]) -> None:
    wanted = logits(dlm.load(checkpoints["llada_tiny"], adapter=made["llada_tiny"], device="cpu"))
    assert torch.equal(logits(dlm.load(adapter, device="cpu")), wanted)
    shutil.copytree(checkpoints["llada_tiny"], adapter / "base")
    change(adapter, base_model_name_or_path="base")  # seen from the adapter
    assert torch.equal(logits(dlm.load(adapter, device="cpu")), wanted)
    spaced = Path(shutil.copytree(adapter, adapter.parent / "an adapter (2)"))
    composed = dlm.compose(["model=local", f"model.path={checkpoints['llada_tiny']}", f"model.adapter={spaced}"])
    assert torch.equal(logits(composed.load_model()), wanted)
    change(adapter, base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match=r"names no base model.*adapter="):
        dlm.load(adapter)
    change(adapter, base_model_name_or_path=str(adapter.parent / "nowhere"))
    with pytest.raises(CheckpointError, match=r"base model of the adapter .* is not there.*adapter="):
        dlm.load(adapter)
    change(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(CheckpointError, match="is itself an adapter"):
        dlm.load(adapter)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "'IA3' adapter: only LORA"),
        ({"init_lora_weights": "pissa"}, "not merged here .init_lora_weights='pissa'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "not merged here .megatron_config="),
        ({"layer_replication": [[0, 4]]}, "not merged here .layer_replication="),
        ({"r": "many"}, "not merged here .r='many'"),
        ({"rank_pattern": {"(": 1}}, "not merged here .rank_pattern="),
        ({"r": 8}, r"wrong shape: model.transformer.blocks.0.attn_out is \[4, 64\] and \[64, 4\], needed \(8, 64\)"),
        ({"target_modules": ["q_proj", "k_proj"]}, "missing: model.transformer.blocks.0.k_proj"),
        ({"modules_to_save": ["ln_f"]}, "missing: ln_f"),
    ],
)
def test_settings_that_do_not_fit(fields: dict[str, Any], message: str, adapter: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        dlm.load(change(adapter, **fields))


def test_files_that_do_not_fit(adapter: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, weights = checkpoints["llada_tiny"], adapter / "adapter_model.safetensors"
    with pytest.raises(CheckpointError, match=r"does not fit DreamModel. no such module: model.transformer.blocks.0"):
        dlm.load(checkpoints["dream_tiny"], adapter=adapter)
    with pytest.raises(CheckpointError, match=r"does not fit LLaDAModelLM. wrong shape: .*blocks.0.v_proj is"):
        dlm.load(checkpoints["llada_tiny_gqa"], adapter=adapter)
    tensors = load_file(weights)
    save_file({name: t for name, t in tensors.items() if "0.q_proj.lora_B" not in name}, weights)
    with pytest.raises(CheckpointError, match=r"blocks.0.q_proj has no pair of A and B"):
        dlm.load(base, adapter=adapter)
    save_file({}, weights)
    with pytest.raises(CheckpointError, match=r"missing: model.transformer.blocks.0.q_proj"):
        dlm.load(base, adapter=adapter)
    weights.write_bytes(b"\0" * 99)
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        dlm.load(base, adapter=adapter)
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"has no adapter_model.safetensors; adapter_model.bin is not read"):
        dlm.load(base, adapter=adapter)
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json"):
        dlm.load(base, adapter=base)
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs peft: pip install 'dlm\[adapters\]'"):
        dlm.load(base, adapter=adapter)
