"""Checkpoints that were quantised before: read where their package is there, else refused with its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dlm
from dlm.errors import CheckpointError, SettingsError
from dlm.models import packed
from dlm.models.checkpoint import TINY

TOKENS = torch.arange(3, 27).view(2, 12)
PROMPTS = ["47+85=", 'Reverse the list: ["Anna", "Bob", "Cleo"]']


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the packaged model, to be quantised."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def configure(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("gptq", SettingsError, "which optimum and gptqmodel reads: pip install optimum gptqmodel"),
        ("awq", SettingsError, "which gptqmodel reads: pip install gptqmodel, or load the unquantised model"),
        ("bitsandbytes", SettingsError, "which bitsandbytes reads: pip install bitsandbytes"),
        ("compressed-tensors", SettingsError, "which compressed_tensors reads: pip install compressed-tensors"),
        ("fbgemm_fp8", CheckpointError, "which is not read: load the unquantised model"),
        ("torchao", CheckpointError, "which is not read: load the unquantised model"),
        (None, CheckpointError, "which is not read: load the unquantised model"),
    ],
)
def test_packages_that_are_not_there(
    folder: Path, method: str | None, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "find_spec", lambda name: None)
    settings = {"quant_method": method, "bits": 4} if method else {"bits": 4, "group_size": 128}
    kind = f"quantised with {method}" if method else "are quantised"
    for file in ("quantize_config.json", "quant_config.json"):
        (folder / file).write_text(json.dumps(settings))
        with pytest.raises(error, match=f"{kind} .*{file}.*{message}"):
            dlm.load(folder)
        (folder / file).unlink()
    configure(folder, quantization_config=settings)
    with pytest.raises(error, match=f"{kind} .*quantization_config.*{message}"):
        dlm.load(folder)
    configure(folder, quantization_config={"load_in_4bit": True})
    with pytest.raises(SettingsError, match="pip install bitsandbytes"):
        dlm.load(folder)


def test_float8_in_blocks_becomes_plain_weights(folder: Path) -> None:
    exact: Any = dlm.load("tiny", device="cpu").backbone
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        tensors[name] = weight
        if weight.dim() == 2 and "blocks" in name:
            rows, columns = (size // 128 for size in weight.shape)
            blocks = weight.view(rows, 128, columns, 128)
            scale = blocks.abs().amax((1, 3)) / 448
            tensors[name] = (blocks / scale[:, None, :, None]).view_as(weight).to(torch.float8_e4m3fn)
            tensors[name.replace("weight", "weight_scale_inv")] = scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    configure(
        folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3",
                                     "activation_scheme": "dynamic", "dequantize": False},
    )  # fmt: skip
    model: Any = dlm.load(folder, device="cpu", dtype="float32")
    assert (model.quantised, model.dtype) == (None, torch.float32) and "1.4 million" in repr(model)
    query, wanted = (b.state_dict()["model.transformer.blocks.0.q_proj.weight"] for b in (model.backbone, exact))
    assert query.dtype == torch.float32
    assert 0 < (query - wanted).abs().max() < 0.07 * wanted.abs().max()
    assert [a.text for a in dlm.generate(model, PROMPTS, sampler="threshold", max_new_tokens=24)] == [
        a.text for a in dlm.generate("tiny", PROMPTS, sampler="threshold", max_new_tokens=24)
    ]


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes(bits: int, tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    from dlm.models.llada import LLaDAModelLM

    how: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}
    how = {"quantization_config": BitsAndBytesConfig(**how), "device_map": {"": "cpu"}}
    LLaDAModelLM.from_pretrained(TINY, **how).save_pretrained(folder)
    model = dlm.load(folder, device="cpu", dtype="bfloat16")
    assert (model.quantised, model.dtype) == ("bitsandbytes", torch.bfloat16)
    assert "1.4 million parameters, bfloat16 with bitsandbytes weights, cpu" in repr(model)
    both = dlm.generate(model, PROMPTS, sampler="threshold", cache="dual", max_new_tokens=24, batch_size=2)
    alone = [dlm.generate(model, p, sampler="threshold", cache="dual", max_new_tokens=24)[0] for p in PROMPTS]
    assert [a.tokens for a in both] == [a.tokens for a in alone] and both[1].text.startswith('["Cleo"')
    with pytest.raises(SettingsError, match="quantised with bitsandbytes already: leave quantize out"):
        dlm.load(folder, device="cpu", quantize="int8")
    tensors = load_file(folder / "model.safetensors")
    gone = {name: t for name, t in tensors.items() if not name.startswith("model.transformer.blocks.1.q_proj.")}
    save_file(gone | {"model.transformer.strange.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: .*1.q_proj.weight. 1 surplus: model.transformer.strange"):
        dlm.load(folder, device="cpu")


def test_compressed_tensors_become_plain_weights(folder: Path) -> None:
    pytest.importorskip("compressed_tensors")
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        tensors[name] = weight
        if weight.dim() == 2 and "blocks" in name:
            tensors[f"{name}_scale"] = scale = weight.abs().amax(1, keepdim=True) / 127
            tensors[name] = (weight / scale).round().to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    configure(folder, quantization_config={
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["model.transformer.ff_out"], "config_groups": {"all": {"targets": ["Linear"], "weights": weights}},
    })  # fmt: skip
    model, exact = dlm.load(folder, device="cpu"), dlm.load("tiny", device="cpu")
    query, wanted = (m.backbone.state_dict()["model.transformer.blocks.0.q_proj.weight"] for m in (model, exact))
    assert 0 < (query - wanted).abs().max() <= wanted.abs().max() / 250
    assert model.quantised is None
