"""What a transformer is: its shape and numerics, what a family calls the parts, and its rotary tables."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.errors import SettingsError


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: a router sends every position to a few of many small MLPs, whose outputs are weighed.

    Attributes:
        layers: which layers have one; the others have an MLP.
        count, chosen: how many there are, and how many of them a position is sent to.
        width: size of an expert's two input projections.
        shared_width: likewise of one expert that sees every position, or 0.
        scoring: scores are a softmax over all experts, or a sigmoid of each.
        renormalise: whether the weights of the chosen ones are made to sum to one.
        bias: whether a stored bias is added to the scores where experts are chosen (never to their weights).
        groups, kept_groups: experts lie in groups, and only those of the best groups can be chosen; a group is worth
            its two best scores. 0: no groups.
        scale: factor of the weights.
        merged: whether the checkpoint stores the experts of a layer as one tensor a projection.
    """

    layers: tuple[int, ...]
    count: int
    chosen: int
    width: int
    shared_width: int = 0
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    renormalise: bool = False
    bias: bool = False
    groups: int = 0
    kept_groups: int = 0
    scale: float = 1.0
    merged: bool = False

    def __post_init__(self) -> None:
        inside = self.count
        if self.groups:
            if self.count % self.groups or not 0 < self.kept_groups <= self.groups or self.count < 2 * self.groups:
                raise SettingsError(
                    f"{self.count} experts (num_experts) do not lie in {self.groups} groups (n_group) of at least two,"
                    f" {self.kept_groups} of which (topk_group) are kept; correct the config"
                )
            inside = self.count // self.groups * self.kept_groups
        if not 0 < self.chosen <= inside:
            raise SettingsError(
                f"{self.chosen} of {inside} experts cannot be chosen (num_experts_per_tok, num_experts, n_group,"
                " topk_group); correct the config"
            )


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
        head_dim: size of one attention head; 0: the width over the heads.
        rotary_dim: how many of its first entries are rotated; 0: all.
        head_norms: whether every query and key head is normed before its rotation.
        gain_in_float32: whether a norm multiplies by its gain before the one rounding to the model dtype (SDAR), or
            after it.
        float32_logits: whether the logits are handed out in float32 (LLaDA2).
        experts: the mixture of experts in place of the MLP, and the layers that have it.
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
    head_dim: int = 0
    rotary_dim: int = 0
    head_norms: bool = False
    gain_in_float32: bool = False
    float32_logits: bool = False
    experts: Experts | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, derived = getattr(self, field.name), field.name in ("head_dim", "rotary_dim")
            if isinstance(value, int | float) and not isinstance(value, bool) and not (value > 0 or derived):
                raise SettingsError(f"{field.name} must be positive, got {value}; correct the config")
        if not self.head_dim and (self.width % self.heads or (self.width // self.heads) % 2):
            raise SettingsError(
                f"a width of {self.width} (d_model, hidden_size) does not split into {self.heads} even heads (n_heads,"
                " num_attention_heads); correct the config"
            )
        if self.rotary_width % 2 or self.rotary_width > self.head_width:
            raise SettingsError(
                f"{self.rotary_width} of the {self.head_width} entries of a head (head_dim) cannot be rotated in pairs"
                " (partial_rotary_factor, rotary_dim); correct the config"
            )
        if self.heads % self.kv_heads:
            raise SettingsError(
                f"{self.heads} query heads cannot share {self.kv_heads} key/value heads (n_kv_heads,"
                " num_key_value_heads); correct the config"
            )

    @property
    def head_width(self) -> int:
        """Size of one attention head."""
        return self.head_dim or self.width // self.heads

    @property
    def rotary_width(self) -> int:
        """How many of the first entries of a head are rotated."""
        return self.rotary_dim or self.head_width


@dataclass(frozen=True)
class Names:
    """Where a checkpoint family keeps each part: dotted paths from the model, and from a block.

    Parts that a family lacks are empty. The projections of an expert are called as those of an MLP.
    """

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
    query_key_value: str = ""  # in place of the three
    query_norm: str = ""
    key_norm: str = ""
    router: str = ""
    experts: str = ""
    shared: str = ""


class Rope(NamedTuple):
    """Rotary tables of the fed positions; ``sin`` already carries the sign of the half it multiplies."""

    cos: Float[Tensor, "... T 1 h"]
    sin: Float[Tensor, "... T 1 h"]


def rope_tables(arch: Architecture, positions: Int[Tensor, "... T"], dtype: torch.dtype) -> Rope:
    """Half-split rotary tables: the angle of pair j at position p is ``p * theta ** (-2 j / rotary width)``.

    Angles are computed anew in float32 (float64 for a float64 model): a stored buffer would be cast with the
    model, or come back uninitialised from a load through the meta device.
    """
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    exponent = torch.arange(0, arch.rotary_width, 2, device=positions.device, dtype=precise) / arch.rotary_width
    angles = positions[..., None].to(precise) * (1 / arch.rope_theta**exponent)
    cos, sin = angles.cos(), angles.sin()
    tables = torch.cat([cos, cos], -1).unsqueeze(-2), torch.cat([-sin, sin], -1).unsqueeze(-2)
    return Rope(*tables) if arch.rotate_full_precision else Rope(*(t.to(dtype) for t in tables))
