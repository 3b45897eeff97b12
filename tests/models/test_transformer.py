"""The transformer's parts against closed forms, and what must not matter: order, padding, head sharing."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from dlm.errors import SettingsError
from dlm.models.architecture import Architecture, rope_tables
from dlm.models.block import RMSNorm, attend, rotate
from tests.models.small import CONFIGS, small, tokens

FAMILIES = list(CONFIGS)


def arch(**changes: object) -> Architecture:
    base = Architecture(
        vocab_size=10, width=16, layers=1, heads=2, kv_heads=2, mlp_width=8, rope_theta=100.0, norm_eps=1e-5,
        qkv_bias=False, rotate_full_precision=True,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def test_rotation_turns_pair_j_by_p_theta_to_minus_2j_over_width() -> None:
    settings, positions = arch(), torch.tensor([0, 1, 5, 300])
    q = torch.randn(1, 4, 2, 8, dtype=torch.float64)
    turned = rotate(q, rope_tables(settings, positions, torch.float64))
    for t, p in enumerate(positions.tolist()):
        for j in range(4):  # the halves are paired: j with j + 4
            angle = p * 100.0 ** (-2 * j / 8)
            z = torch.complex(q[0, t, :, j], q[0, t, :, j + 4]) * complex(math.cos(angle), math.sin(angle))
            torch.testing.assert_close(turned[0, t, :, j], z.real, rtol=0, atol=1e-12)
            torch.testing.assert_close(turned[0, t, :, j + 4], z.imag, rtol=0, atol=1e-12)


def test_rotation_precision() -> None:
    positions = torch.arange(3)
    assert rope_tables(arch(), positions, torch.bfloat16).cos.dtype == torch.float32
    assert rope_tables(arch(rotate_full_precision=False), positions, torch.bfloat16).cos.dtype == torch.bfloat16
    for full in (True, False):
        tables = rope_tables(arch(rotate_full_precision=full), positions, torch.float64)
        assert tables.cos.dtype == torch.float64


def test_norm_multiplies_after_the_cast() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(arch())
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x = 3 * torch.randn(5, 16)
    expected = norm.weight * x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    torch.testing.assert_close(norm(x), expected, rtol=1e-6, atol=1e-6)
    low, x16 = norm.to(torch.bfloat16), x.to(torch.bfloat16)
    x32 = x16.float()
    cast = (x32 * (x32.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).to(torch.bfloat16)
    assert torch.equal(low(x16), low.weight * cast)


def test_grouped_heads_share_keys_contiguously() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 5, heads, 8, dtype=torch.float64) for heads in (6, 2, 2))
    out = attend(q, k, v, None).view(2, 5, 6, 8)
    for head in range(6):
        scores = q[:, :, head] @ k[:, :, head // 3].transpose(1, 2) / math.sqrt(8)
        torch.testing.assert_close(out[:, :, head], functional.softmax(scores, -1) @ v[:, :, head // 3])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_feeding_does_not_matter(family: str) -> None:
    model, ids = small(family), tokens(2, 9)
    order = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(s)) for s in (1, 2)])
    ordered = model.hidden(ids)
    shuffled = model.hidden(ids.gather(1, order), order)
    torch.testing.assert_close(shuffled, ordered.gather(1, order[..., None].expand_as(ordered)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_invalid_tail_changes_nothing(family: str) -> None:
    model, ids = small(family), tokens(1, 7)
    padded = torch.cat([ids, tokens(1, 4, seed=5)], dim=1)
    valid = torch.arange(11)[None] < 7
    torch.testing.assert_close(model.hidden(padded, None, valid)[:, :7], model.hidden(ids), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_see_its_neighbours(family: str) -> None:
    model, ids = small(family), tokens(3, 8)
    valid = torch.tensor([[True] * 8, [True] * 5 + [False] * 3, [True] * 8])
    together = model.hidden(ids, None, valid)
    torch.testing.assert_close(together[:1], model.hidden(ids[:1]), rtol=0, atol=1e-12)
    torch.testing.assert_close(together[1:2, :5], model.hidden(ids[1:2, :5]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_bidirectional(family: str) -> None:
    model, ids = small(family), tokens(1, 6)
    changed = ids.clone()
    changed[0, 5] = 2 if ids[0, 5] != 2 else 3
    assert (model.hidden(ids)[0, 0] - model.hidden(changed)[0, 0]).abs().max() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_dtype_runs_in_itself(family: str, dtype: torch.dtype) -> None:
    model = small(family, dtype)
    valid = torch.tensor([[True] * 4 + [False]])
    hidden = model.hidden(tokens(1, 5), None, valid)
    assert hidden.dtype == dtype
    assert model.head(hidden).dtype == dtype
    assert model.head(hidden).isfinite().all()


def test_nothing_is_stored_besides_the_parameters() -> None:
    assert not list(small("llada").buffers())


def test_it_compiles_without_a_break() -> None:
    model, ids = small("dream"), tokens(2, 6)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids).logits, model(ids).logits, rtol=0, atol=1e-12)


def test_a_copied_model_is_independent() -> None:
    model, ids = small("llada"), tokens(1, 4)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.model.transformer.blocks[0].q_proj.weight.zero_()
    assert not torch.equal(twin.hidden(ids), model.hidden(ids))


@pytest.mark.parametrize(
    "wrong",
    [{"width": 18}, {"heads": 3}, {"kv_heads": 3, "width": 32, "heads": 4}, {"layers": 0}, {"rope_theta": -1.0}],
)
def test_impossible_shapes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="correct the config"):
        arch(**wrong)
