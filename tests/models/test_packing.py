"""Packed projections compute what the single ones do, and files do not know of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dlm
from dlm.models import fused
from dlm.models.transformer import GATE_UP, QKV, Rope, rope_tables, rotate
from tests.models.small import CONFIGS, small, tokens


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_and_unpacked_are_one_model(family: str, tmp_path: Path) -> None:
    apart, packed, ids = small(family), small(family), tokens(2, 9)
    packed.pack()
    block = packed.get_submodule(packed.names.blocks)[0]
    assert {QKV, GATE_UP} <= set(block._modules)
    torch.testing.assert_close(packed(ids).logits, apart(ids).logits, rtol=0, atol=1e-12)
    n = torch.randn(2, 3, 32, dtype=torch.float64)
    rope = rope_tables(packed.arch, torch.arange(3), torch.float64)
    assert torch.allclose(block.value_heads(n), block.heads(n, rope)[2])

    saved, original = packed.state_dict(), apart.state_dict()
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], original[name]) for name in saved)
    packed.save_pretrained(tmp_path)
    again = type(packed).from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(again(ids).logits, apart(ids).logits)
    other = small(family)
    for weight in other.parameters():
        weight.data.mul_(1.5)
    packed.load_state_dict(other.state_dict())
    torch.testing.assert_close(packed(ids).logits, other(ids).logits, rtol=1e-12, atol=1e-12)
    packed.unpack()
    assert torch.equal(packed(ids).logits, other(ids).logits)
    assert {name for name, _ in packed.named_parameters()} == set(original)


def test_a_replaced_projection_stays_what_it_is() -> None:
    """Adapters and quantisers put modules of their own in its place."""

    class Own(torch.nn.Linear):
        pass

    model, ids = small("llada"), tokens(1, 5)
    before = model(ids).logits
    for block in model.get_submodule(model.names.blocks):
        own = Own(32, 48, bias=False).double()
        own.load_state_dict(block.up_proj.state_dict())
        block.up_proj = own
    model.pack()
    block = model.get_submodule(model.names.blocks)[0]
    assert QKV in block._modules
    assert type(block.up_proj) is Own
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=1e-12)


def test_what_is_loaded_is_packed(checkpoints: dict[str, Path]) -> None:
    model = dlm.load(checkpoints["dream_tiny"], device="cpu").backbone
    assert all(QKV in block._modules for block in model.get_submodule(model.names.blocks))


@pytest.mark.parametrize("full", [True, False])
def test_the_kernels_formulas_are_the_eager_ones_up_to_their_one_rounding(full: bool) -> None:
    x = torch.randn(2, 5, 3, 8).bfloat16()
    tables = torch.randn(2, 2, 5, 1, 8)
    rope = Rope(*(tables if full else tables.bfloat16()))
    precise = rotate(x.double(), Rope(*(t.double() for t in rope)))
    torch.testing.assert_close(torch.ops.dlm.rotate(x, *rope).double(), precise, rtol=2**-8, atol=1e-6)
    gate, up = x.double().chunk(2, dim=-1)
    wanted = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(torch.ops.dlm.gated(x).double(), wanted, rtol=2**-8, atol=1e-6)
    assert not fused.fused(x)  # on a CPU


@pytest.mark.gpu
def test_the_kernels_compute_their_formulas() -> None:
    for shape in ((1, 32, 40, 128), (2, 7, 5, 8), (3, 1, 6, 48)):
        x = torch.randn(*shape, dtype=torch.bfloat16, device="cuda")
        for table in ((shape[1], 1, shape[3]), (*shape[:2], 1, shape[3])):
            angles = torch.randn(*table[:-1], shape[3] // 2, device="cuda")
            cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
            found, wanted = torch.ops.dlm.rotate(x, cos, sin), fused._rotate(x, cos, sin)
            torch.testing.assert_close(found, wanted, rtol=2**-7, atol=1e-3)
        torch.testing.assert_close(torch.ops.dlm.gated(x), fused._gated(x), rtol=2**-7, atol=1e-3)
