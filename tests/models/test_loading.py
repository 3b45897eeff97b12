"""Everything that can be wrong with a model folder is one clear error."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dlm
import samplers
from dlm.errors import CheckpointError, DlmError, SettingsError
from dlm.models import LLaDAModelLM
from dlm.models.checkpoint import TINY

Tensors = dict[str, torch.Tensor]
BLOCK = "model.transformer.blocks"


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoints["llada_tiny"], tmp_path / "model"))


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def test_what_is_loaded_says_what_it_is(checkpoints: dict[str, Path]) -> None:
    model = dlm.load(str(checkpoints["dream_tiny"]), device="cpu")
    description = model.description
    assert (description.mask_id, description.eos_ids, description.shift) == (511, (510,), 1)
    assert (description.vocab_size, description.valid_vocab, description.context_length) == (512, 512, 2048)
    assert (model.device, model.dtype, model.tokenizer) == (torch.device("cpu"), torch.float32, None)
    assert model.name == str(checkpoints["dream_tiny"])
    assert not model.backbone.training
    assert not any(p.requires_grad for p in model.backbone.parameters())
    with pytest.raises(SettingsError, match="token ids"):
        model.encode("text")


def test_missing_weights_are_listed(folder: Path) -> None:
    rewrite(folder, lambda t: [t.pop(f"{BLOCK}.{n}.q_proj.weight") for n in (1, 3)])
    with pytest.raises(CheckpointError, match=rf"2 missing: {BLOCK}.1.q_proj.weight, {BLOCK}.3.q_proj.weight\."):
        dlm.load(folder)


def test_surplus_weights_are_listed(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({"model.extra.weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"1 surplus: model.extra.weight\."):
        dlm.load(folder)


def test_misshaped_weights_are_listed(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({f"{BLOCK}.0.ff_proj.weight": torch.zeros(190, 64)}))
    with pytest.raises(CheckpointError, match=r"ff_proj.weight is \[190, 64\], needed \[192, 64\]"):
        dlm.load(folder)


def test_a_long_list_is_cut(folder: Path) -> None:
    configure(folder, n_layers=9)
    with pytest.raises(CheckpointError, match=r"45 missing: (\S+, ){11}\S+ and 33 more\."):
        dlm.load(folder)


@pytest.mark.parametrize("keep", [0, 5, 900, 500_000, -1])
def test_a_truncated_file(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut off"):
        dlm.load(folder)


def test_a_damaged_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:60] = b"x" * 52
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        dlm.load(folder)


def test_a_missing_shard(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = dlm.load(checkpoints["llada_tiny"], device="cpu").backbone
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    sorted(tmp_path.glob("model-0*.safetensors"))[1].unlink()
    with pytest.raises(CheckpointError, match=r"lacks shards .*model-00002-of"):
        dlm.load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(CheckpointError, match=r"index.json is damaged"):
        dlm.load(tmp_path)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"neither .* are not read: convert them"):
        dlm.load(folder)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        dlm.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"x"', '{"architectures": 7}'])
def test_a_damaged_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises((CheckpointError, SettingsError), match=r"config\.json"):
        dlm.load(folder)


def test_architectures_we_do_not_have(folder: Path) -> None:
    configure(folder, architectures=["DiffusionGemmaForBlockDiffusion"])
    with pytest.raises(SettingsError, match=r"is not supported: it denoises random tokens"):
        dlm.load(folder)
    configure(folder, architectures=["GPT2LMHeadModel"])
    with pytest.raises(SettingsError, match=r"'GPT2LMHeadModel'.*known: LLaDAModelLM, DreamModel"):
        dlm.load(folder)
    configure(folder, architectures="absent")
    with pytest.raises(SettingsError, match="unknown"):
        dlm.load(folder)


def test_ids_that_are_nowhere(folder: Path) -> None:
    configure(folder, mask_token_id="absent")
    with pytest.raises(SettingsError, match="mask_token_id"):
        dlm.load(folder)


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"unknown model 'tinny'.*GSAI-ML/LLaDA-8B-Instruct"):
        dlm.load("tinny")
    for absent in (tmp_path / "absent", str(tmp_path / "absent"), "./absent"):
        with pytest.raises(CheckpointError, match="is not a folder"):
            dlm.load(absent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"nobody/nothing is not a local folder .* check the name"):
        dlm.load("nobody/nothing")


def test_devices_and_dtypes_that_are_not_there(folder: Path) -> None:
    with pytest.raises(SettingsError, match="contradict"):
        dlm.load(folder, device="cpu", device_map="auto")
    with pytest.raises(SettingsError, match="unknown device"):
        dlm.load(folder, device="gpu")
    with pytest.raises(SettingsError, match="CUDA devices found"):
        dlm.load(folder, device="cuda:99")
    for dtype in ("float31", "int8", torch.int32):
        with pytest.raises(SettingsError, match="unknown dtype"):
            dlm.load(folder, dtype=dtype)


def shard(folder: Path, names: dict[str, str] | list[str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers(folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder, lambda t: t.update({f"{BLOCK}.0.q_proj.weight": torch.zeros(64, 64).to(dtype)}))
    with pytest.raises(CheckpointError, match=r"not in F64, F32, F16, BF16: \S+0.q_proj.weight is \w+"):
        dlm.load(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/tmp/x.safetensors", "a/b.safetensors", "x.bin", "..", 3])
def test_shards_stay_in_their_folder(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    shard(folder, {"a": name})
    with pytest.raises(CheckpointError, match=r"plain file names|damaged"):
        dlm.load(folder)


def test_links_may_lead_out_of_it(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert dlm.load(folder, device="cpu").description.mask_id == 511


def test_a_single_file_beside_shards(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model-1.safetensors")
    shard(folder, {"a": "model-1.safetensors"})
    with pytest.raises(CheckpointError, match=r"holds model.safetensors and the shards of .*out of date"):
        dlm.load(folder)
    (folder / "model-1.safetensors").unlink()  # then the index is what is out of date
    assert dlm.load(folder, device="cpu").description.mask_id == 511


def test_angles_that_older_versions_stored_are_left_out(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({f"{BLOCK}.0.rotary_emb.inv_freq": torch.zeros(8)}))
    assert dlm.load(folder, device="cpu").description.mask_id == 511


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_its_model(folder: Path, name: str) -> None:
    (folder / name).write_text('{"base_model_name_or_path": "some/base"}')
    with pytest.raises(CheckpointError, match=r"holds an adapter beside its model: adapter.*adapter=that folder"):
        dlm.load(folder)


@pytest.mark.parametrize(
    ("in_config", "in_generation", "wanted"),
    [
        (510, 7, (510, 7)),
        (510, [7, 510, 8], (510, 7, 8)),
        ([510, 6], None, (510, 6)),
        ("absent", [7, 8], (7, 8)),
        (None, "9", (9,)),
        (510, "absent", (510,)),
    ],
)
def test_end_ids_of_every_place(folder: Path, in_config: Any, in_generation: Any, wanted: tuple[int, ...]) -> None:
    configure(folder, eos_token_id=in_config)
    entry = {} if in_generation == "absent" else {"eos_token_id": in_generation}
    (folder / "generation_config.json").write_text(json.dumps(entry))
    assert dlm.load(folder, device="cpu").description.eos_ids == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"eos_token_id": 512}', r"\[512\] of generation_config.json is outside the vocabulary of 512"),
        ('{"eos_token_id": true}', "correct generation_config.json"),
        ('{"eos_token_id": [[1]]}', "correct generation_config.json"),
        ('{"eos_token_id": 511}', "511 is both mask_token_id and eos_token_id"),
        ("[1]", "generation_config.json is not a JSON object"),
    ],
)
def test_end_ids_that_are_none(folder: Path, text: str, message: str) -> None:
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(DlmError, match=message):
        dlm.load(folder)


def test_an_answer_ends_at_an_end_that_only_the_generation_config_names(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    model = dlm.load("tiny", device="cpu")
    ask = {"sampler": samplers.topk(), "max_new_tokens": 8}
    (before,) = dlm.generate(model, ["47+85="], **ask)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": before.tokens[1]}))
    (after,) = dlm.generate(folder, ["47+85="], **ask)
    assert after.text == model.decode(before.tokens[:1]) != before.text


def test_threads_load_side_by_side(folder: Path) -> None:
    dtypes = [torch.float64, torch.float32, torch.bfloat16] * 3
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            models = list(pool.map(lambda dtype: dlm.load(folder, device="cpu", dtype=dtype), dtypes))
    finally:
        sys.setswitchinterval(before)
    assert [model.dtype for model in models] == dtypes
    assert torch.get_default_dtype() == torch.float32


def test_a_load_that_fails_leaves_the_default_dtype(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **settings: Any) -> None:
        torch.set_default_dtype(settings["dtype"])
        raise ImportError("no such kernel")

    monkeypatch.setattr(LLaDAModelLM, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match="no such kernel"):
        dlm.load(folder, device="cpu", dtype="float64")
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ["", "a" * 5000, "a\0b", "~nobody-of-this-name/x", "a/b/c"])
def test_names_that_can_be_no_folder(name: str) -> None:
    with pytest.raises((SettingsError, CheckpointError)):
        dlm.load(name)
