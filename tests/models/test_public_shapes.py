"""The full-size models have exactly the tensors of the public checkpoints (LLaDA, arXiv 2502.09992, and Dream, arXiv
2508.15487)."""

from __future__ import annotations

import torch

from dlm.models import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM
from dlm.models.checkpoint import needed_shapes

WIDE, NARROW = 12288, 512  # LLaDA's MLP; Dream's four key/value heads


def llada_8b() -> dict[str, tuple[int, ...]]:
    square, into, norm = (4096, 4096), (WIDE, 4096), (4096,)
    block = {
        "attn_norm": norm, "ff_norm": norm, "q_proj": square, "k_proj": square, "v_proj": square,
        "attn_out": square, "ff_proj": into, "up_proj": into, "ff_out": (4096, WIDE),
    }  # fmt: skip
    keys = {
        "model.transformer.wte.weight": (126464, 4096),
        "model.transformer.ln_f.weight": norm,
        "model.transformer.ff_out.weight": (126464, 4096),
    }
    for n in range(32):
        keys |= {f"model.transformer.blocks.{n}.{part}.weight": shape for part, shape in block.items()}
    return keys


def dream_7b() -> dict[str, tuple[int, ...]]:
    norm, width = (3584,), 3584
    block = {
        "input_layernorm.weight": norm, "post_attention_layernorm.weight": norm,
        "self_attn.q_proj.weight": (width, width), "self_attn.q_proj.bias": norm,
        "self_attn.k_proj.weight": (NARROW, width), "self_attn.k_proj.bias": (NARROW,),
        "self_attn.v_proj.weight": (NARROW, width), "self_attn.v_proj.bias": (NARROW,),
        "self_attn.o_proj.weight": (width, width), "mlp.gate_proj.weight": (18944, width),
        "mlp.up_proj.weight": (18944, width), "mlp.down_proj.weight": (width, 18944),
    }  # fmt: skip
    keys = {
        "model.embed_tokens.weight": (152064, width),
        "lm_head.weight": (152064, width),
        "model.norm.weight": norm,
    }
    for n in range(28):
        keys |= {f"model.layers.{n}.{part}": shape for part, shape in block.items()}
    return keys


def total_bytes(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(2 * torch.Size(shape).numel() for shape in shapes.values())


def test_llada_8b() -> None:
    shapes = needed_shapes(LLaDAModelLM, LLaDAConfig())
    assert shapes == llada_8b()
    assert len(shapes) == 291
    assert total_bytes(shapes) == 16_031_162_368


def test_dream_7b() -> None:
    shapes = needed_shapes(DreamModel, DreamConfig())
    assert shapes == dream_7b()
    assert len(shapes) == 339
    assert total_bytes(shapes) == 15_231_233_024


def test_the_defaults_are_the_public_values() -> None:
    llada, dream = LLaDAConfig().architecture(), DreamConfig().architecture()
    assert (llada.head_width, llada.kv_heads, llada.rope_theta, llada.norm_eps) == (128, 32, 500_000.0, 1e-5)
    assert (dream.head_width, dream.kv_heads, dream.rope_theta, dream.norm_eps) == (128, 4, 1e6, 1e-6)
    assert llada.rotate_full_precision
    assert not dream.rotate_full_precision
    assert LLaDAConfig().describe().mask_id == 126336
    assert LLaDAConfig().describe().eos_ids == (126081,)
    assert DreamConfig().describe().mask_id == 151666
    assert DreamConfig().describe().shift == 1
