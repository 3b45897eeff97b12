"""Small random models of both families."""

from __future__ import annotations

import torch

from dlm.models import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM
from dlm.models.masked_lm import MaskedLM

LLADA = LLaDAConfig(
    d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=48, vocab_size=40, mask_token_id=0,
    eos_token_id=1, max_sequence_length=64,
)  # fmt: skip
DREAM = DreamConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
    vocab_size=40, mask_token_id=39, eos_token_id=38, max_position_embeddings=64,
)  # fmt: skip
CONFIGS = {"llada": LLADA, "dream": DREAM}


def small(family: str, dtype: torch.dtype = torch.float64) -> MaskedLM:
    """A seeded model with biases and gains that differ from their initial values."""
    torch.manual_seed(7)
    model: MaskedLM = (LLaDAModelLM if family == "llada" else DreamModel)(CONFIGS[family])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval().requires_grad_(False)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random ids of the small vocabulary."""
    return torch.randint(2, 38, shape, generator=torch.Generator().manual_seed(seed))
