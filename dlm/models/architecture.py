"""What a transformer is: its shape and numerics, what a family calls the parts, and its rotary tables."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.errors import SettingsError


@dataclass(frozen=True)
class Architecture:
    """Shape and numerics of a transformer.

    Attributes:
        vocab_size: rows of the embedding and width of the logits.
        width: size of the residual stream.
        layers, heads, kv_heads: blocks, query heads, and key/value heads (fewer: grouped-query attention).
        mlp_width: size of each of the two MLP input projections.
        rope_theta: base of the rotary angles.
        norm_eps: added to the mean square under the root.
        qkv_bias: whether the query, key and value projections have a bias.
        rotate_full_precision: rotate in float32 and cast afterwards (LLaDA), or in the model dtype (Dream).
        init_std: standard deviation of fresh weights; None scales them with the input width instead.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int
    rope_theta: float
    norm_eps: float
    qkv_bias: bool
    rotate_full_precision: bool
    init_std: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, bool) and not value > 0:
                raise SettingsError(f"{field.name} must be positive, got {value}; correct the config")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise SettingsError(
                f"a width of {self.width} (d_model, hidden_size) does not split into {self.heads} even heads (n_heads,"
                " num_attention_heads); correct the config"
            )
        if self.heads % self.kv_heads:
            raise SettingsError(
                f"{self.heads} query heads cannot share {self.kv_heads} key/value heads (n_kv_heads,"
                " num_key_value_heads); correct the config"
            )

    @property
    def head_width(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True)
class Names:
    """Where a checkpoint family keeps each part: dotted paths from the model, and from a block."""

    embedding: str
    blocks: str
    final_norm: str
    head: str
    attention_norm: str
    query: str
    key: str
    value: str
    attention_out: str
    mlp_norm: str
    gate: str
    up: str
    down: str


class Rope(NamedTuple):
    """Rotary tables of the fed positions; ``sin`` already carries the sign of the half it multiplies."""

    cos: Float[Tensor, "... T 1 h"]
    sin: Float[Tensor, "... T 1 h"]


def rope_tables(arch: Architecture, positions: Int[Tensor, "... T"], dtype: torch.dtype) -> Rope:
    """Half-split rotary tables: the angle of pair j at position p is ``p * theta ** (-2 j / head width)``.

    Angles are computed anew in float32 (float64 for a float64 model): a stored buffer would be cast with the
    model, or come back uninitialised from a load through the meta device.
    """
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    exponent = torch.arange(0, arch.head_width, 2, device=positions.device, dtype=precise) / arch.head_width
    angles = positions[..., None].to(precise) * (1 / arch.rope_theta**exponent)
    cos, sin = angles.cos(), angles.sin()
    tables = torch.cat([cos, cos], -1).unsqueeze(-2), torch.cat([-sin, sin], -1).unsqueeze(-2)
    return Rope(*tables) if arch.rotate_full_precision else Rope(*(t.to(dtype) for t in tables))
