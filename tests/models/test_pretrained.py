"""The models as transformers classes: public names on disk, configurations that keep what they do not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

import dlm
from dlm.errors import SettingsError
from dlm.models import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM
from dlm.models.checkpoint import stored_shapes
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig
from tests.models.small import small, tokens

CLASSES: dict[str, type[MaskedLM]] = {
    "llada_tiny": LLaDAModelLM,
    "llada_tiny_gqa": LLaDAModelLM,
    "dream_tiny": DreamModel,
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_save_and_reload(checkpoints: dict[str, Path], tmp_path: Path, name: str, shard: str) -> None:
    source = checkpoints[name]
    model = CLASSES[name].from_pretrained(source)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "200KB")
    assert stored_shapes(tmp_path) == stored_shapes(source)
    again, ids = dlm.load(tmp_path, device="cpu").backbone, tokens(2, 9)
    assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_field_survives_saving(checkpoints: dict[str, Path], tmp_path: Path, name: str) -> None:
    CLASSES[name].from_pretrained(checkpoints[name]).save_pretrained(tmp_path)
    before = json.loads((checkpoints[name] / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    moved = {"transformers_version", "torch_dtype"}  # transformers 5 writes its version, and "dtype"
    assert {k: after[k] for k in before.keys() - moved} == {k: before[k] for k in before.keys() - moved}


def test_unknown_fields_are_kept(tmp_path: Path) -> None:
    LLaDAConfig(vocab_size=40, mask_token_id=0, made_by={"whom": "us"}).save_pretrained(tmp_path)
    config = LLaDAConfig.from_pretrained(tmp_path)
    assert config.made_by == {"whom": "us"}
    assert config.mask_token_id == 0


def test_common_names_are_aliases() -> None:
    config = LLaDAConfig(d_model=32, n_heads=4, n_kv_heads=2, n_layers=3, mlp_hidden_size=64, weight_tying=True)
    assert (config.hidden_size, config.num_attention_heads, config.num_key_value_heads) == (32, 4, 2)
    assert (config.num_hidden_layers, config.intermediate_size, config.tie_word_embeddings) == (3, 64, True)
    assert config.max_position_embeddings == config.max_sequence_length == 4096


def test_fields_that_may_be_absent() -> None:
    config = LLaDAConfig(d_model=32, n_heads=4, mlp_hidden_size=None, mlp_ratio=2, multi_query_attention=True)
    assert config.architecture().mlp_width == 64
    assert config.architecture().kv_heads == 1
    assert LLaDAConfig(d_model=32, n_heads=4).architecture().kv_heads == 4
    assert LLaDAConfig(vocab_size=40, embedding_size=64).architecture().vocab_size == 64


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        (LLaDAConfig, {"alibi": True}),
        (LLaDAConfig, {"rope": False}),
        (LLaDAConfig, {"block_type": "sequential"}),
        (LLaDAConfig, {"activation_type": "swiglu"}),
        (DreamConfig, {"use_sliding_window": True}),
    ],
)
def test_other_mathematics_is_refused(family: type[MaskedLMConfig], fields: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="is not supported"):
        family(**fields).architecture()


def test_auto_classes_find_ours_in_spite_of_auto_map(checkpoints: dict[str, Path]) -> None:
    for name, family in CLASSES.items():
        assert "auto_map" in json.loads((checkpoints[name] / "config.json").read_text())
        assert type(AutoConfig.from_pretrained(checkpoints[name])) is family.config_class
        assert type(AutoModel.from_pretrained(checkpoints[name])) is family


def test_a_two_dimensional_mask_hides_keys(checkpoints: dict[str, Path]) -> None:
    model, ids = DreamModel.from_pretrained(checkpoints["dream_tiny"], dtype=torch.float64), tokens(1, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    torch.testing.assert_close(model(ids, mask).logits[:, :5], model(ids[:, :5]).logits, rtol=0, atol=1e-12)
    with pytest.raises(SettingsError, match="attention_mask"):
        model(ids, mask[:, None, None])


def test_tied_head(tmp_path: Path) -> None:
    config = LLaDAConfig(
        d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=32, vocab_size=40, mask_token_id=0, eos_token_id=1,
        weight_tying=True,
    )  # fmt: skip
    model = LLaDAModelLM(config)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again, ids = dlm.load(tmp_path, device="cpu").backbone, tokens(1, 5)
    torch.testing.assert_close(again(ids).logits, model(ids).logits)


def test_fresh_weights_follow_the_public_initialisation() -> None:
    torch.manual_seed(0)
    model = LLaDAModelLM(LLaDAConfig(d_model=64, n_layers=2, n_heads=4, mlp_hidden_size=256, vocab_size=500))
    first, second = model.model.transformer.blocks
    for weight, std in [
        (model.model.transformer.wte.weight, 1 / 8),
        (first.q_proj.weight, 1 / 8),
        (first.ff_out.weight, 1 / 16 / 2**0.5),
        (second.attn_out.weight, 1 / 8 / 2),
    ]:
        weight = weight.detach()
        assert float(weight.abs().max()) <= 3 * std
        assert float(weight.std()) == pytest.approx(0.986 * std, rel=0.05)  # of a normal cut at three deviations
    assert torch.equal(first.attn_norm.weight, torch.ones(64))


def test_gradients_reach_every_parameter() -> None:
    for family in ("llada", "dream"):
        model = small(family).requires_grad_(True)
        model(tokens(2, 6)).logits.logsumexp(-1).sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_half_precision_files_load_in_the_dtype_asked_for(tmp_path: Path) -> None:
    small("dream").to(torch.float16).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("lm_head.weight").dtype == torch.float16
    assert dlm.load(tmp_path, device="cpu").dtype == torch.float32
    assert dlm.load(tmp_path, device="cpu", dtype="float64").dtype == torch.float64
    assert dlm.load(tmp_path, device_map={"": "cpu"}, dtype=torch.bfloat16).dtype == torch.bfloat16
