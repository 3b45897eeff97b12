"""Weights in fewer bits: near the model's own, a row still alone, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dlm
import samplers
from dlm.errors import SettingsError
from dlm.models import quantising
from dlm.models.quantising import stored_tensors, weight_bytes

PROMPTS = ["47+85=", 'Reverse the list: ["Anna", "Bob", "Cleo"]']
TOKENS = torch.arange(3, 27).view(2, 12)


def logits(model: dlm.LanguageModel) -> torch.Tensor:
    return model.backbone.head(model.backbone.hidden(TOKENS)).double()


@pytest.mark.parametrize("name", ["llada_tiny_gqa", "dream_tiny"])
@pytest.mark.parametrize(("kind", "share"), [("int8", 0.28), ("int4", 0.20)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matrices_are_rounded_to_the_next_step(
    checkpoints: dict[str, Path], name: str, kind: Any, share: float, dtype: str
) -> None:
    exact: Any = dlm.load(checkpoints[name], device="cpu")
    model: Any = dlm.load(checkpoints[name], device="cpu", dtype=dtype, quantize=kind)
    blocks, full = (m.backbone.get_submodule(m.backbone.names.blocks) for m in (model, exact))
    matrices = {name: part for name, part in full.named_modules() if isinstance(part, torch.nn.Linear)}
    assert len(matrices) == 4 * 4  # packed ones
    for name, matrix in matrices.items():
        rows = matrix.weight.unflatten(1, (-1, matrix.in_features if kind == "int8" else 64))
        widest = 2 * rows.abs().amax(-1) / 255 if kind == "int8" else (rows.amax(-1) - rows.amin(-1)) / 15
        found = blocks.get_submodule(name)(torch.eye(matrix.in_features, dtype=model.dtype)).float()
        if matrix.bias is not None:
            found = found - matrix.bias
        gap = (found.T.unflatten(1, rows.shape[1:]) - rows).abs().amax(-1)
        rounding = 0.02 * rows.abs().amax(-1) + 0.01 if dtype == "bfloat16" else 1e-3 * widest
        assert (gap <= widest / 2 + rounding).all(), name
    assert weight_bytes(blocks) < share * weight_bytes(full)
    assert (logits(model) - logits(exact)).norm() / logits(exact).norm() < (0.1 if kind == "int8" else 0.7)


def test_a_quantised_model_says_what_it_is(checkpoints: dict[str, Path]) -> None:
    model = dlm.load(checkpoints["llada_tiny"], device="cpu", dtype="bfloat16", quantize="int8")
    assert (model.dtype, model.quantised, model.device) == (torch.bfloat16, "int8", torch.device("cpu"))
    assert "llada, 0.3 million parameters, bfloat16 with int8 weights, cpu)" in repr(model)
    assert model.backbone.get_output_embeddings().weight.dtype == torch.bfloat16
    assert stored_tensors(model.backbone.get_output_embeddings().weight)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("cache", [None, "dual", "dkv_decode"])
def test_rows_are_alone(kind: Any, cache: str | None) -> None:
    model = dlm.load("tiny", device="cpu", quantize=kind)
    how: dict[str, Any] = {"sampler": samplers.threshold(0.9), "cache": cache, "max_new_tokens": 24}
    both = dlm.generate(model, PROMPTS, batch_size=2, **how)
    for prompt, row in zip(PROMPTS, both, strict=True):
        (alone,) = dlm.generate(model, prompt, **how)
        assert (alone.tokens, alone.commit_step) == (row.tokens, row.commit_step)
    assert both[1].text.startswith('["Cleo", "Bob", "Anna"]')


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_blocks_compile(kind: Any) -> None:
    how: dict[str, Any] = {"sampler": "threshold", "cache": "dual", "max_new_tokens": 16, "batch_size": 2}
    plain, compiled = (dlm.load("tiny", device="cpu", quantize=kind, compile=compile) for compile in (False, True))
    assert [a.tokens for a in dlm.generate(compiled, PROMPTS, **how)] == [
        a.tokens for a in dlm.generate(plain, PROMPTS, **how)
    ]


def test_the_command_line() -> None:
    model = dlm.compose(["model.quantize=int8"]).load_model()
    assert model.quantised == "int8"
    with pytest.raises(SettingsError, match=r"model.quantize must be 'int8', 'int4', 'fp8' or null, got 'int3'"):
        dlm.compose(["model.quantize=int3"])
    assert torch.get_float32_matmul_precision() == "highest"  # torchao's own settings hold for the whole process


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantize": "int2"}, "unknown quantisation 'int2'; use int8, int4 or fp8"),
        ({"quantize": "fp8"}, "cpu has no float8.*: use quantize=int8"),
        ({"quantize": "int8", "dtype": "float64"}, "int8 on cpu computes in float32 or bfloat16 or float16.*set dtype"),
        ({"quantize": "int8", "device_map": "auto", "device": None}, "give device in place of device_map"),
        ({"quantize": "int4", "device": "meta"}, "int4 runs on cpu and cuda, not on meta: use quantize=int8"),
    ],
)
def test_refused_before_loading(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dlm.load("no/such model", **{"device": "cpu", **settings})


def test_widths_that_int4_cannot_divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.models.small import small

    small("llada").save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match="multiples of 32, not 48: use quantize=int8"):
        dlm.load(tmp_path, device="cpu", quantize="int4")
    assert dlm.load(tmp_path, device="cpu", quantize="int8").quantised == "int8"
    monkeypatch.setattr(quantising, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs torchao: pip install 'dlm\[quantize\]'"):
        dlm.load(tmp_path, quantize="int8")


def test_digests_tell_quantised_weights_apart() -> None:
    from dlm.evaluation.harness.requests import decode_digest

    digests = {decode_digest(dlm.load("tiny", device="cpu", quantize=kind)) for kind in (None, "int8", "int4")}
    assert len(digests) == 3
