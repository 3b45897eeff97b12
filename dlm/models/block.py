"""One block of the transformer: attention and a gated MLP, and how their projections are packed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from dlm.errors import SettingsError
from dlm.models.architecture import Architecture, Names, Rope
from dlm.models.experts import MixtureOfExperts
from dlm.models.fused import fused
from dlm.models.parts import Parts, RMSNorm, joined, linear, linear_of, place

# What packed projections are called in a block.
QKV, GATE_UP = "qkv", "gate_up"


def packings(names: Names, experts: bool) -> dict[str, tuple[str, ...]]:
    """The projections of a block that read the same rows, by the name of the one that can stand for them."""
    found: dict[str, tuple[str, ...]] = {}
    if not names.query_key_value:
        found[QKV] = (names.query, names.key, names.value)
    if not experts:
        found[GATE_UP] = (names.gate, names.up)
    return found


# Queries, keys, values and mask of what is fed in; keys, values and mask of what is attended to out.
Exchange = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream; parts have the checkpoint's names.

    Projections of the same rows may be packed into one product (:meth:`pack`): state dicts keep the checkpoint's names.
    """

    def __init__(self, arch: Architecture, names: Names, layer: int) -> None:
        super().__init__()
        self.arch, self.names = arch, names
        mixed = arch.experts is not None and layer in arch.experts.layers
        self.mixed, self.packings = mixed, packings(names, mixed)
        width, head, bias = arch.width, arch.head_width, arch.qkv_bias
        heads = {"query": arch.heads, "key": arch.kv_heads, "value": arch.kv_heads}
        if names.query_key_value:
            heads = {"query_key_value": arch.heads + 2 * arch.kv_heads}
        deep = math.sqrt(2 * (layer + 1))
        place(self, names.attention_norm, RMSNorm(arch))
        for role, count in heads.items():
            place(self, getattr(names, role), linear(arch, width, count * head, bias=bias))
        if arch.head_norms:
            place(self, names.query_norm, RMSNorm(arch, head))
            place(self, names.key_norm, RMSNorm(arch, head))
        place(self, names.attention_out, linear(arch, arch.heads * head, width, shrink=deep))
        place(self, names.mlp_norm, RMSNorm(arch))
        if mixed:
            place(self, names.router.rpartition(".")[0], MixtureOfExperts(arch, names, deep))
        else:
            place(self, names.gate, linear(arch, width, arch.mlp_width))
            place(self, names.up, linear(arch, width, arch.mlp_width))
            place(self, names.down, linear(arch, arch.mlp_width, width, shrink=deep))
        self._parts = Parts(self, names)
        self.register_state_dict_post_hook(_saved_apart)
        self.register_load_state_dict_pre_hook(_loaded_apart)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: Rope,
        mask: Bool[Tensor, "B 1 1 S"] | Bool[Tensor, "B 1 T S"] | None,
        maps: list[Float[Tensor, "B T T"]] | None = None,
        exchange: Exchange | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The stream after this block; ``mask`` is True at the keys that may be attended to. ``exchange`` is given the
        queries, keys, values and mask of what is fed, and answers with the keys, values and mask of what is attended
        to. The attention, mean over the heads, is added to ``maps`` when there is one."""
        q, k, v = self.heads(self.attention_input(x), rope)
        if exchange is not None:
            k, v, mask = exchange(q, k, v, mask)
        if maps is not None:
            maps.append(attention_map(q, k, mask))
        x = x + self.attention_output(q, k, v, mask)
        return x + self.mlp_output(x)

    def attention_input(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """What the attention projections read."""
        return self._parts.attention_norm(x)

    def heads(
        self, n: Float[Tensor, "B T D"], rope: Rope
    ) -> tuple[Float[Tensor, "B T H h"], Float[Tensor, "B T K h"], Float[Tensor, "B T K h"]]:
        """Rotated queries and keys, and values, of normed rows."""
        arch, parts = self.arch, self._parts
        project = self._fused()
        every = torch.cat([parts.query(n), parts.key(n), parts.value(n)], dim=-1) if project is None else project(n)
        every = every.view(*n.shape[:-1], -1, arch.head_width)
        turned, v = every.split([arch.heads + arch.kv_heads, arch.kv_heads], dim=-2)
        if not arch.head_norms:
            turned = rotate(turned, rope)
        q, k = turned.split([arch.heads, arch.kv_heads], dim=-2)
        if arch.head_norms:
            q, k = rotate(parts.query_norm(q), rope), rotate(parts.key_norm(k), rope)
        return q, k, v

    def _fused(self) -> Any:
        """The projection onto queries, keys and values at once; None while they are three."""
        return self._parts.query_key_value if self.names.query_key_value else self._modules.get(QKV)

    def value_heads(self, n: Float[Tensor, "B T D"]) -> Float[Tensor, "B T K h"]:
        """Values of normed rows."""
        arch, packed = self.arch, self._fused()
        if packed is None:
            value = self._parts.value(n)
        elif type(packed) is nn.Linear:
            first = (arch.heads + arch.kv_heads) * arch.head_width
            value = functional.linear(n, packed.weight[first:], None if packed.bias is None else packed.bias[first:])
        else:  # quantised: its rows cannot be had apart
            value = packed(n)[..., (arch.heads + arch.kv_heads) * arch.head_width :]
        return value.view(*n.shape[:-1], -1, arch.head_width)

    def attention_output(
        self,
        q: Float[Tensor, "B T H h"],
        k: Float[Tensor, "B S K h"],
        v: Float[Tensor, "B S K h"],
        mask: Bool[Tensor, "B 1 1 S"] | Bool[Tensor, "B 1 T S"] | None,
    ) -> Float[Tensor, "B T D"]:
        """What attention adds to the stream."""
        return self._parts.attention_out(attend(q, k, v, mask))

    def mlp_output(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """What the MLP adds to the stream."""
        parts, packed = self._parts, self._modules.get(GATE_UP)
        n = parts.mlp_norm(x)
        if self.mixed:
            return self.mixture(n)
        if packed is None:
            return parts.down(functional.silu(parts.gate(n)) * parts.up(n))
        return parts.down(gated(packed(n)))

    @property
    def mixture(self) -> Any:
        """The mixture of experts in place of the MLP."""
        return self.get_submodule(self.names.router.rpartition(".")[0])

    def pack(self) -> None:
        """Lay the query, key and value projections into one matrix, and gate and up: one product each instead of three
        and two; and the experts of a layer. Nothing happens to projections that are no plain ones (quantised, adapted,
        or not in memory)."""
        if self.mixed:
            self.mixture.bank.merge()
        for packed, names in self.packings.items():
            linears: list[Any] = [self.get_submodule(name) for name in names]
            if all(type(x) is nn.Linear and not x.weight.is_meta for x in linears):
                self.add_module(packed, joined(linears))
                for name in names:
                    parent, _, leaf = name.rpartition(".")
                    delattr(self.get_submodule(parent), leaf)

    def unpack(self) -> None:
        """The projections one by one again, as trainers and adapters look for them; views of the packed matrices."""
        for packed, names in self.packings.items():
            if packed in self._modules:
                whole: Any = self._modules[packed]
                if type(whole) is not nn.Linear or type(whole.weight) is not nn.Parameter:
                    raise SettingsError("quantised projections cannot be taken apart: load the model without quantize")
                del self._modules[packed]
                sizes = self._sizes(packed)
                biases: Any = [None] * len(sizes) if whole.bias is None else whole.bias.split(sizes)
                for name, weight, bias in zip(names, whole.weight.split(sizes), biases, strict=True):
                    place(self, name, linear_of(weight, bias))

    def _sizes(self, packed: str) -> list[int]:
        arch = self.arch
        if packed == QKV:
            return [heads * arch.head_width for heads in (arch.heads, arch.kv_heads, arch.kv_heads)]
        return [arch.mlp_width, arch.mlp_width]


def rotate(x: Float[Tensor, "B T N h"], rope: Rope) -> Float[Tensor, "B T N h"]:
    """Heads turned by their positions, in the precision of the tables, back in their own dtype; entries behind the
    width of the tables as they are."""
    if (width := rope.cos.shape[-1]) < x.shape[-1]:
        return torch.cat([rotate(x[..., :width], rope), x[..., width:]], dim=-1)
    if fused(x):
        return torch.ops.dlm.rotate(x, rope.cos, rope.sin)
    turned = torch.addcmul(x * rope.cos, x.roll(x.shape[-1] // 2, dims=-1).to(rope.sin.dtype), rope.sin)
    return turned.to(x.dtype)


def gated(x: Float[Tensor, "... 2*M"]) -> Float[Tensor, "... M"]:
    """``silu(first half) * second half``; ``x`` may be overwritten."""
    if fused(x):
        return torch.ops.dlm.gated(x)
    gate, up = x.chunk(2, dim=-1)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return functional.silu(gate) * up
    return functional.silu(gate, inplace=True).mul_(
        up
    )  # nobody else reads it, and new memory costs a CPU more than this


def attend(
    q: Float[Tensor, "B T H h"],
    k: Float[Tensor, "B S K h"],
    v: Float[Tensor, "B S K h"],
    mask: Bool[Tensor, "B 1 1 S"] | Bool[Tensor, "B 1 T S"] | None,
) -> Float[Tensor, "B T D"]:
    """Every query over every unmasked key; key head j serves the j-th group of query heads.

    The queries of a group are laid one after the other along the query axis, so that keys and values, which may be a
    whole cache, are never copied.
    """
    (rows, fed, heads, width), kv = q.shape, k.shape[-2]
    group = heads // kv
    q = q.view(rows, fed, kv, group, width).permute(0, 2, 3, 1, 4).reshape(rows, kv, group * fed, width)
    if group > 1 and mask is not None and mask.shape[2] > 1:
        mask = mask.repeat(1, 1, group, 1)
    out = functional.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)
    return out.view(rows, kv, group, fed, width).permute(0, 3, 1, 2, 4).reshape(rows, fed, heads * width)


def attention_weights(
    q: Float[Tensor, "B T H h"],
    k: Float[Tensor, "B S K h"],
    mask: Bool[Tensor, "B 1 1 S"] | Bool[Tensor, "B 1 T S"] | None,
) -> Float[Tensor, "B H T S"]:
    """The weights :func:`attend` uses, in at least float32."""
    k = k.repeat_interleave(q.shape[-2] // k.shape[-2], dim=-2)
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    precise = scores.float() if scores.dtype.itemsize < 4 else scores
    return precise.softmax(dim=-1)


def attention_map(
    q: Float[Tensor, "B T H h"],
    k: Float[Tensor, "B S K h"],
    mask: Bool[Tensor, "B 1 1 S"] | Bool[Tensor, "B 1 T S"] | None,
) -> Float[Tensor, "B T S"]:
    """The mean of :func:`attention_weights` over the heads."""
    return attention_weights(q, k, mask).mean(dim=1)


def _saved_apart(block: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """What is packed leaves under the checkpoint's names."""
    for packed, names in block.packings.items():
        for kind in ("weight", "bias"):
            whole: Any = state.get(f"{prefix}{packed}.{kind}")
            if type(whole) in (Tensor, nn.Parameter):  # what is quantised stays as it is
                del state[f"{prefix}{packed}.{kind}"]
                parts = whole.split(block._sizes(packed))
                state.update({f"{prefix}{name}.{kind}": part for name, part in zip(names, parts, strict=True)})


def _loaded_apart(block: Any, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """And comes back from there."""
    for packed, names in block.packings.items():
        for kind in ("weight", "bias"):
            keys = [f"{prefix}{name}.{kind}" for name in names]
            if packed in block._modules and all(key in state for key in keys):
                state[f"{prefix}{packed}.{kind}"] = torch.cat([state.pop(key) for key in keys])
