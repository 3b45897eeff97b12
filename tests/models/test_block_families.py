"""SDAR, Fast-dLLM v2, LLaDA-MoE and LLaDA2: logits of the published code, names and layouts, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

import dlm
from dlm.errors import CheckpointError, DlmError, SettingsError
from dlm.models.architecture import Experts, rope_tables
from dlm.models.block import rotate
from dlm.models.checkpoint import needed_shapes
from dlm.models.experts import MixtureOfExperts, Router, grouped
from dlm.models.loading import FAMILIES, read_config
from dlm.models.qwen import QWEN_NAMES
from dlm.models.untrained import SHAPES, random_model
from tests.models.test_transformer import arch

DATA = Path(__file__).parents[1] / "data" / "block"
GOLDEN = load_file(DATA / "logits.safetensors")  # every second row of the recorded logits
RUNS = sorted({key.rpartition("/")[0] for key in GOLDEN})
MODELS = sorted({run.partition("/")[0] for run in RUNS})


def fed(run: str) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    ids = GOLDEN[f"{run}/input"].long()
    mask, where = GOLDEN.get(f"{run}/mask", GOLDEN.get(f"{run}/valid")), GOLDEN.get(f"{run}/positions")
    if mask is not None and mask.dim() == 3:
        mask = mask.expand(len(ids), -1, -1)
    return ids, None if where is None else where.long().expand_as(ids), mask


def logits(model: Any, run: str) -> torch.Tensor:
    with torch.inference_mode():
        return model.head(model.hidden(*fed(run)))[:, ::2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("run", RUNS)
def test_logits_equal_the_reference(run: str, dtype: torch.dtype) -> None:
    model = dlm.load(DATA / "checkpoints" / run.partition("/")[0], device="cpu", dtype=dtype).backbone
    found = logits(model, run)
    torch.testing.assert_close(found.double(), GOLDEN[f"{run}/logits"].double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("run", [run for run in RUNS if f"{run}/bf16" in GOLDEN])
def test_bfloat16_stays_near(run: str) -> None:
    model = dlm.load(DATA / "checkpoints" / run.partition("/")[0], device="cpu", dtype="bfloat16").backbone
    found, recorded = logits(model, run), GOLDEN[f"{run}/bf16"]
    assert found.dtype == (torch.float32 if "llada2" in run else torch.bfloat16)
    # A rounding of the router's input may choose another expert, which moves single rows: most rows are near.
    apart = (found.float() - recorded.float()).abs().amax(dim=-1).flatten()
    assert apart.median() < 0.03 * recorded.float().abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_the_public_forward_builds_the_blocks_itself(name: str) -> None:
    model: Any = dlm.load(DATA / "checkpoints" / name, device="cpu", attention_block=_block(name)).backbone
    run = next(run for run in RUNS if run in (f"{name}/block{_block(name)}", f"{name}/full"))
    with torch.inference_mode():
        found = model(fed(run)[0]).logits[:, ::2]
    torch.testing.assert_close(found, GOLDEN[f"{run}/logits"], rtol=0, atol=1e-4)


def _block(name: str) -> int | None:
    return {"sdar_tiny": 4, "fast_dllm_v2_tiny": 16, "llada2_tiny": 32}.get(name)


def test_what_the_models_say_of_themselves() -> None:
    told = {name: dlm.load(DATA / "checkpoints" / name, device="cpu").description for name in MODELS}
    assert {name: (d.mask_id, d.eos_ids, d.shift, d.attention_block) for name, d in told.items()} == {
        "sdar_tiny": (308, (300, 302), 0, 4),
        "fast_dllm_v2_tiny": (308, (302, 300), 1, 16),
        "llada2_tiny": (304, (301, 307), 0, 32),
        "llada_moe_tiny": (304, (301, 307), 0, 0),
    }
    assert (
        dlm.load(DATA / "checkpoints" / "sdar_tiny", device="cpu", attention_block=8).description.attention_block == 8
    )


# Numbers of tensors and of weights in the public checkpoints, as their cards and files have them.
PUBLIC = {
    "sdar-8b": (399, 8_190_735_360),
    "sdar-30b-a3b": (18_867, 30_532_122_624),
    "fast-dllm-v2-7b": (339, 7_615_616_512),
    "llada-moe-7b-a1b": (3_219, 7_356_880_896),
    "llada2-mini": (14_813, 16_255_643_392),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", PUBLIC)
def test_public_shapes(name: str) -> None:
    config = SHAPES[name]
    family = next(family for family in FAMILIES.values() if family.config_class is config)
    shapes = needed_shapes(family, config())
    assert (len(shapes), sum(torch.Size(shape).numel() for shape in shapes.values())) == PUBLIC[name]


def test_public_names() -> None:
    llada2, moe = SHAPES["llada2-mini"], SHAPES["llada-moe-7b-a1b"]
    names = needed_shapes(FAMILIES["LLaDA2MoeModelLM"], llada2(num_hidden_layers=2))
    assert {name: shape for name, shape in names.items() if ".1." in name and ".experts." not in name} == {
        "model.layers.1.input_layernorm.weight": (2048,),
        "model.layers.1.post_attention_layernorm.weight": (2048,),
        "model.layers.1.attention.query_key_value.weight": (3072, 2048),
        "model.layers.1.attention.dense.weight": (2048, 2048),
        "model.layers.1.attention.query_layernorm.weight": (128,),
        "model.layers.1.attention.key_layernorm.weight": (128,),
        "model.layers.1.mlp.gate.weight": (256, 2048),
        "model.layers.1.mlp.gate.expert_bias": (256,),
        "model.layers.1.mlp.shared_experts.gate_proj.weight": (512, 2048),
        "model.layers.1.mlp.shared_experts.up_proj.weight": (512, 2048),
        "model.layers.1.mlp.shared_experts.down_proj.weight": (2048, 512),
    }
    assert names["model.layers.1.mlp.experts.255.down_proj.weight"] == (2048, 512)
    assert names["model.layers.0.mlp.gate_proj.weight"] == (5120, 2048)
    dense = needed_shapes(FAMILIES["LLaDAMoEModelLM"], moe(num_hidden_layers=2, moe_layer_freq=[0, 1]))
    assert dense["model.layers.0.mlp.gate_proj.weight"] == (8192, 2048)
    assert dense["model.layers.1.mlp.experts.63.up_proj.weight"] == (1024, 2048)


def merged(folder: Path, to: Path) -> Path:
    """The checkpoint with the experts of a layer in one tensor a projection."""
    shutil.copytree(folder, to)
    tensors, stacks = load_file(folder / "model.safetensors"), dict[str, dict[int, torch.Tensor]]()
    for name in [name for name in tensors if ".experts." in name]:
        layer, rest = name.split(".experts.")
        index, leaf, _ = rest.split(".")
        stacks.setdefault(f"{layer}.experts.{leaf}", {})[int(index)] = tensors.pop(name)
    tensors |= {name: torch.stack([parts[i] for i in range(len(parts))]) for name, parts in stacks.items()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_both_layouts_of_experts_load_and_save_as_they_were(tmp_path: Path) -> None:
    apart = DATA / "checkpoints" / "llada2_tiny"
    together = merged(apart, tmp_path / "merged")
    run = "llada2_tiny/block8"
    models: list[Any] = [dlm.load(folder, device="cpu").backbone for folder in (apart, together)]
    torch.testing.assert_close(logits(models[0], run), logits(models[1], run), rtol=0, atol=2e-5)
    for model, folder in zip(models, (apart, together), strict=True):
        model.save_pretrained(tmp_path / "saved")
        stored, saved = load_file(folder / "model.safetensors"), load_file(tmp_path / "saved" / "model.safetensors")
        assert stored.keys() == saved.keys()
        assert all(torch.equal(stored[name], saved[name]) for name in stored)
        again: Any = dlm.load(tmp_path / "saved", device="cpu").backbone
        torch.testing.assert_close(logits(again, run), logits(model, run), rtol=0, atol=2e-5)
        model.load_state_dict(stored)
        shutil.rmtree(tmp_path / "saved")


def test_tensors_in_both_layouts_are_refused(tmp_path: Path) -> None:
    apart = DATA / "checkpoints" / "llada2_tiny"
    both = merged(apart, tmp_path / "both")
    tensors = load_file(both / "model.safetensors") | load_file(apart / "model.safetensors")
    save_file(tensors, both / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"48 surplus: model\.layers\.1\.mlp\.experts\.0"):
        dlm.load(both, device="cpu")


def experts(**changes: Any) -> Experts:
    return replace(Experts((0,), 8, 2, 12, scoring="sigmoid", renormalise=True, groups=4, kept_groups=2), **changes)


@pytest.mark.parametrize("about", [experts(), experts(scoring="softmax", renormalise=False, groups=0)])
@pytest.mark.parametrize("merged", [False, True])
def test_experts_equal_one_position_after_the_other(about: Experts, merged: bool) -> None:
    torch.manual_seed(0)
    mixture = MixtureOfExperts(arch(experts=replace(about, merged=merged)), QWEN_NAMES, 1.0).double()
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    n = torch.randn(3, 5, 16, dtype=torch.float64)
    gate, up, down = mixture.bank.tensors()
    choice, weights = mixture.router(n.view(-1, 16))
    expected = torch.zeros(15, 16, dtype=torch.float64)
    for place, row in enumerate(n.view(-1, 16)):
        for e, w in zip(choice[place].tolist(), weights[place], strict=True):
            expected[place] += w * down[e] @ (functional.silu(gate[e] @ row) * (up[e] @ row))
    torch.testing.assert_close(mixture(n).view(-1, 16), expected)
    assert int(mixture.hit) == len(set(choice.flatten().tolist()))
    mixture.bank.merge()
    torch.testing.assert_close(mixture(n).view(-1, 16), expected)
    # Without gradients and in float32 the library's grouped product takes over.
    with torch.inference_mode():
        torch.testing.assert_close(mixture.float()(n.float()).view(-1, 16), expected.float(), rtol=1e-4, atol=1e-4)


def test_groups_and_bias_decide_who_is_chosen_and_never_what_they_weigh() -> None:
    """Eight experts in four groups, two of which are kept: worth of a group is its two best scores."""
    router = Router(arch(width=2, heads=1, kv_heads=1), experts(bias=True, scale=2.5))
    scores = torch.tensor([0.9, 0.1, 0.6, 0.5, 0.7, 0.2, 0.3, 0.8])
    with torch.no_grad():
        router.weight.copy_(torch.stack([torch.logit(scores), torch.zeros(8)], dim=1))
    choice, weights = router(torch.tensor([[1.0, 0.0]]))
    assert choice.tolist() == [[7, 2]]  # the best of all, expert 0, lies in a group that is not kept
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.6]]) / 1.4 * 2.5)
    router.expert_bias[3] = 0.2
    choice, weights = router(torch.tensor([[1.0, 0.0]]))
    assert choice.tolist() == [[7, 3]]
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.5]]) / 1.3 * 2.5)


def test_grouped_products_have_gradients() -> None:
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights, ends = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True), torch.tensor([2, 2, 5])
    assert torch.autograd.gradcheck(lambda r, w: grouped(r, w, ends), (rows, weights))


def test_a_part_of_a_head_is_rotated() -> None:
    settings, positions = arch(rotary_dim=4), torch.tensor([0, 3])
    heads = torch.randn(1, 2, 2, 8, dtype=torch.float64)
    turned = rotate(heads, rope_tables(settings, positions, torch.float64))
    assert torch.equal(turned[..., 4:], heads[..., 4:])
    whole = rotate(heads[..., :4], rope_tables(arch(head_dim=4), positions, torch.float64))
    torch.testing.assert_close(turned[..., :4], whole)


def changed(tmp_path: Path, name: str, fields: Mapping[str, Any], drop: str = "") -> Path:
    folder = tmp_path / name
    shutil.copytree(DATA / "checkpoints" / name, folder)
    config = json.loads((folder / "config.json").read_text()) | fields
    config.pop(drop, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "fields", "drop", "told"),
    [
        ("llada2_tiny", {"expert_capacity": 48}, "", "LLaDA2.2.*chosen by whole blocks.*use LLaDA2.0 or 2.1"),
        ("llada2_tiny", {"vocab_size": 173568}, "", "LLaDA2.0-Uni, whose image codes"),
        ("llada2_tiny", {"rotary_dim": 12}, "", "rotary_dim=12 and partial_rotary_factor=0.5 .* contradict"),
        ("llada2_tiny", {"n_group": 3}, "", "8 experts .* do not lie in 3 groups"),
        ("llada2_tiny", {"num_experts_per_tok": 5}, "", "5 of 4 experts cannot be chosen"),
        ("llada2_tiny", {"score_function": "softmax"}, "", "score_function='softmax' is not supported"),
        ("llada2_tiny", {"use_qk_norm": False}, "", "use_qk_norm=False is not supported"),
        ("llada2_tiny", {}, "topk_group", "does not name topk_group; add it"),
        ("llada2_tiny", {"head_dim": 31, "rotary_dim": None}, "", "31 of the 31 entries of a head"),
        ("llada_moe_tiny", {"clip_qkv": 5}, "", "clip_qkv=5 is not supported"),
        ("llada_moe_tiny", {"shared_expert_intermediate_size": 32}, "", "shared_expert_intermediate_size=32 is not"),
        ("llada_moe_tiny", {"moe_layer_freq": [1, 0]}, "", "a 0 or a 1 for each of the 3 layers"),
        ("llada_moe_tiny", {"moe_layer_freq": "all"}, "", "moe_layer_freq must be a list"),
        ("sdar_tiny", {"use_sliding_window": True}, "", "use_sliding_window=True is not supported"),
        ("sdar_tiny", {"attention_bias": True}, "", "attention_bias=True is not supported"),
        ("sdar_tiny", {"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "", "rope_type 'yarn'"),
        ("sdar_tiny", {"block_size": 0}, "", "block_size must be from 1"),
        ("sdar_tiny", {"partial_rotary_factor": 0.5}, "", "every pair of a head is rotated"),
        ("sdar_tiny", {}, "head_dim", "does not name head_dim; add it"),
        ("sdar_tiny", {"mask_token_id": 12}, "", r"mask_token_id is 12, but in the tokenizer.*<\|MASK\|> is 308"),
    ],
)
def test_what_the_mathematics_does_not_cover_is_refused(
    tmp_path: Path, name: str, fields: dict[str, Any], drop: str, told: str
) -> None:
    with pytest.raises(DlmError, match=told):
        dlm.load(changed(tmp_path, name, fields, drop), device="cpu")


def test_the_length_of_a_block_comes_from_the_name_where_the_configuration_is_silent(tmp_path: Path) -> None:
    silent = changed(tmp_path, "sdar_tiny", {}, "block_size")
    assert dlm.load(silent, device="cpu").description.attention_block == 4
    assert dlm.load(silent.rename(tmp_path / "sdar-b16"), device="cpu").description.attention_block == 16
    says = changed(tmp_path, "sdar_tiny", {}).rename(tmp_path / "says-b16")
    assert dlm.load(says, device="cpu").description.attention_block == 4


def test_blocks_cannot_be_given_to_full_attention() -> None:
    with pytest.raises(SettingsError, match="LLaDAMoEModelLM has full attention; leave attention_block out"):
        dlm.load(DATA / "checkpoints" / "llada_moe_tiny", device="cpu", attention_block=4)


def test_a_router_that_is_no_number(tmp_path: Path) -> None:
    folder = changed(tmp_path, "llada2_tiny", {})
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.gate.weight"][3, 5] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="the router of layer 2 holds NaN"):
        dlm.load(folder, device="cpu")


def test_the_bias_of_a_router_stays_in_float32() -> None:
    model: Any = dlm.load(DATA / "checkpoints" / "llada2_tiny", device="cpu", dtype="bfloat16").backbone
    router = model.model.layers[1].mlp.gate
    assert (router.expert_bias.dtype, router.weight.dtype) == (torch.float32, torch.bfloat16)


def test_fields_that_say_nothing_are_not_read(tmp_path: Path) -> None:
    fields = {"norm_topk_prob": None, "routed_scaling_factor": 7, "router_num_group": 2, "sliding_window": 4096}
    family, config = read_config(changed(tmp_path, "llada_moe_tiny", fields))
    assert (family.__name__, config.architecture().experts.scale) == ("LLaDAMoEModelLM", 1.0)  # type: ignore[union-attr]


def test_a_random_mixture_decodes() -> None:
    config = SHAPES["llada2-mini"](
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=48, moe_intermediate_size=16, num_experts=8, n_group=2, topk_group=1, num_experts_per_tok=2,
        block_size=8, first_k_dense_replace=1,
    )  # fmt: skip
    model = random_model(config, device="cpu")
    (answer,) = dlm.generate(model, [[1, 2, 3]], sampler="llada2", max_new_tokens=12)
    assert len(answer.tokens) == 12
    assert config.mask_token_id not in answer.tokens
