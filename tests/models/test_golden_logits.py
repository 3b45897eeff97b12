"""Logits of the reference implementations (recorded in float32) against ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dlm
from tests.models.checkpoints import DATA, SEEDS

GOLDEN = load_file(DATA.parent / "logits" / "golden.safetensors")  # every second row of the recorded logits


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_equal_the_reference(checkpoints: dict[str, Path], name: str, dtype: torch.dtype) -> None:
    model = dlm.load(checkpoints[name], device="cpu", dtype=dtype).backbone
    ids = GOLDEN[f"{name}/input"].long()[None]
    logits = model.head(model.hidden(ids))[0, ::2]
    torch.testing.assert_close(logits, GOLDEN[f"{name}/logits"].to(dtype), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SEEDS)
def test_bfloat16_stays_near(checkpoints: dict[str, Path], name: str) -> None:
    model = dlm.load(checkpoints[name], device="cpu", dtype="bfloat16").backbone
    logits = model.head(model.hidden(GOLDEN[f"{name}/input"].long()[None]))[0, ::2]
    assert logits.dtype == torch.bfloat16
    reference = GOLDEN[f"{name}/logits"]
    assert (logits.float() - reference).abs().max() < 0.05 * reference.abs().max()


def test_gate_and_up_are_not_interchangeable(checkpoints: dict[str, Path]) -> None:
    model = dlm.load(checkpoints["llada_tiny"], device="cpu").backbone
    model.unpack()
    for block in model.model.transformer.blocks:
        block.ff_proj, block.up_proj = block.up_proj, block.ff_proj
    logits = model.head(model.hidden(GOLDEN["llada_tiny/input"].long()[None]))[0, ::2]
    assert (logits - GOLDEN["llada_tiny/logits"]).abs().max() > 0.1
