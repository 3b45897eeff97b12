"""Test models: one whose logits are a fixed table, and small random ones of the real architectures."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from dlm.models import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM, ModelDescription
from dlm.models.backbone import Backbone

# Fixture T6 of specs/samplers.md section 2: six positions over A, B, C, D.
T6 = [
    [0.92, 0.05, 0.02, 0.01],
    [0.38, 0.60, 0.01, 0.01],
    [0.30, 0.25, 0.24, 0.21],
    [0.02, 0.02, 0.95, 0.01],
    [0.15, 0.15, 0.15, 0.55],
    [0.46, 0.52, 0.01, 0.01],
]


class TableBackbone(Backbone):
    """Logits that depend on the position alone. The first row of the table scores position 1 (a one-token prompt
    comes first); the mask id is the last id and has no probability."""

    def __init__(self, table: list[list[float]]) -> None:
        probs = torch.tensor(table, dtype=torch.float64)
        never = torch.full((probs.shape[0], 1), -1e9, dtype=torch.float64)
        logits = torch.cat([probs.log().clamp_min(-1e9), never], dim=1)
        self.table = torch.cat([torch.zeros(1, logits.shape[1], dtype=torch.float64), logits])
        width = logits.shape[1]
        self.description = ModelDescription(width - 1, (0,), 0, width, width, 4096)
        self.calls = 0

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        self.calls += 1
        if positions is None:
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        return positions[..., None].double()

    def head(self, rows: Tensor) -> Tensor:
        return self.table[rows[..., 0].long()].clone()


def wrap(backbone: Backbone) -> SimpleNamespace:
    """What dlm.generate needs of a language model, without a tokenizer."""
    return SimpleNamespace(
        backbone=backbone,
        description=backbone.description,
        tokenizer=None,
        device=torch.device("cpu"),
        dtype=torch.float64,
        name="double",
    )


def table_model(probs: list[list[float]]) -> SimpleNamespace:
    """A frozen model over the given probabilities."""
    return wrap(TableBackbone(probs))


def confidence_table(confidences: list[float]) -> list[list[float]]:
    """Rows whose best token has the given probability; the rest is spread so thin that it never wins."""
    spread = 400
    return [[c] + [(1 - c) / spread] * spread for c in confidences]


def random_llada(seed: int = 0, dtype: torch.dtype = torch.float64, vocab: int = 40) -> SimpleNamespace:
    """A two-layer LLaDA with random weights, large enough that its distributions are far from uniform."""
    torch.manual_seed(seed)
    config = LLaDAConfig(
        d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=48, vocab_size=vocab, embedding_size=vocab,
        max_sequence_length=256, rope_theta=1000.0, mask_token_id=vocab - 1, eos_token_id=vocab - 2,
        pad_token_id=vocab - 2,
    )  # fmt: skip
    return wrap(_peaked(LLaDAModelLM(config)).to(dtype))


def random_dream(seed: int = 0, dtype: torch.dtype = torch.float64, vocab: int = 40) -> SimpleNamespace:
    """The same for Dream: biases, grouped queries, shifted logits."""
    torch.manual_seed(seed)
    config = DreamConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab, max_position_embeddings=256, rope_theta=1000.0, mask_token_id=vocab - 1,
        eos_token_id=vocab - 2, pad_token_id=vocab - 2, bos_token_id=vocab - 2,
    )  # fmt: skip
    return wrap(_peaked(DreamModel(config)).to(dtype))


def _peaked(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights wide enough that the softmax is not flat."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                scale = 6.0 if name.endswith(("transformer.ff_out.weight", "lm_head.weight")) else 1.5
                weight.normal_(0, scale / math.sqrt(weight.shape[1]))
    return model.eval()
