"""The golden checkpoints, remade from their seed: three megabytes of random weights need not be stored.

Every tensor is one draw of torch's CPU generator, in the order below; a few rows of the head were then changed by
hand and are stored. Made this way the weights equal the recorded files bit for bit (torch 2.6 and 2.13 with AVX2;
within 2e-6 without); ``CHECKS``, the sum of all magnitudes, tells when a future generator draws otherwise.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
SEEDS = {"llada_tiny": 1234, "llada_tiny_gqa": 4321, "dream_tiny": 2468}
CHECKS = {"llada_tiny": 62252.164, "llada_tiny_gqa": 59580.191, "dream_tiny": 59586.603}
LAYERS, WIDTH, MLP, VOCAB = 4, 64, 192, 512

# (public name, what it is); Dream adds biases to query, key and value
_LLADA = {
    "attn_norm": "norm", "ff_norm": "norm", "q_proj": "query", "k_proj": "key", "v_proj": "value",
    "attn_out": "out", "ff_proj": "mlp", "up_proj": "mlp", "ff_out": "down",
}  # fmt: skip
_DREAM = {
    "input_layernorm": "norm", "post_attention_layernorm": "norm", "self_attn.q_proj": "query",
    "self_attn.k_proj": "key", "self_attn.v_proj": "value", "self_attn.o_proj": "out",
    "mlp.gate_proj": "mlp", "mlp.up_proj": "mlp", "mlp.down_proj": "down",
}  # fmt: skip


def write_checkpoint(name: str, folder: Path) -> Path:
    """Make the checkpoint ``name`` in ``folder``, in the public layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (DATA / name).glob("*.json"):
        shutil.copy(file, folder)
    tensors = dict(_tensors(name, json.loads((DATA / name / "config.json").read_text())))
    drawn = sum(float(tensor.double().abs().sum()) for tensor in tensors.values())
    if not math.isclose(drawn, CHECKS[name], rel_tol=1e-6):
        raise AssertionError(f"{name}: torch's generator draws other numbers than it did ({drawn!r})")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tensors(name: str, config: dict) -> Iterator[tuple[str, Tensor]]:
    dream = config["model_type"] == "Dream"
    kv_width = WIDTH // 4 * config["num_key_value_heads" if dream else "n_kv_heads"]
    blocks = "model.layers" if dream else "model.transformer.blocks"
    generator = torch.Generator().manual_seed(SEEDS[name])

    def draw(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    into = WIDTH**-0.5
    kinds = {
        "query": (WIDTH, WIDTH, 3**0.5 * into),
        "key": (kv_width, WIDTH, 3**0.5 * into),
        "value": (kv_width, WIDTH, 1.5 * into),
        "out": (WIDTH, WIDTH, into),
        "mlp": (MLP, WIDTH, into),
        "down": (WIDTH, MLP, MLP**-0.5),
    }
    yield "model.embed_tokens.weight" if dream else "model.transformer.wte.weight", draw(VOCAB, WIDTH, scale=1.0)
    for layer in range(LAYERS):
        for part, kind in (_DREAM if dream else _LLADA).items():
            path = f"{blocks}.{layer}.{part}"
            if kind == "norm":
                yield f"{path}.weight", 1 + draw(WIDTH, scale=0.1)
                continue
            rows, columns, scale = kinds[kind]
            yield f"{path}.weight", draw(rows, columns, scale=scale)
            if dream and kind in ("query", "key", "value"):
                yield f"{path}.bias", draw(rows, scale=0.3)
    yield "model.norm.weight" if dream else "model.transformer.ln_f.weight", 1 + draw(WIDTH, scale=0.1)
    head = draw(VOCAB, WIDTH, scale=4 * into)
    changed = load_file(DATA / name / "head_rows.safetensors")
    head[changed["rows"].long()] = changed["values"]
    yield "lm_head.weight" if dream else "model.transformer.ff_out.weight", head
