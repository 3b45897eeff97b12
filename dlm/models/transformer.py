"""The one bidirectional transformer: pre-norm blocks, rotary positions, gated MLP, full attention.

LLaDA (arXiv 2502.09992) and Dream (arXiv 2508.15487) differ only in the numbers of :class:`Architecture` and
in what their checkpoints call the parts (:class:`Names`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dlm.errors import SettingsError
from dlm.models.backbone import Memory
from dlm.models.fused import fused


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


# What packed projections are called in a block.
QKV, GATE_UP = "qkv", "gate_up"


def packings(names: Names) -> dict[str, tuple[str, ...]]:
    """The projections of a block that read the same rows, by the name of the one that can stand for them."""
    return {QKV: (names.query, names.key, names.value), GATE_UP: (names.gate, names.up)}


class Parts:
    """The modules of a block under the names of their roles, each found by one look into its parent: quantisers and
    adapters replace modules in place."""

    def __init__(self, block: nn.Module, names: Names) -> None:
        self._places: dict[str, tuple[dict[str, Any], str]] = {}
        for role in vars(names):
            parent, _, leaf = getattr(names, role).rpartition(".")
            if role not in ("embedding", "blocks", "final_norm", "head"):
                self._places[role] = (block.get_submodule(parent)._modules, leaf)

    def __getattr__(self, role: str) -> Any:
        modules, leaf = self.__dict__.get("_places", {}).get(role, ({}, role))
        if leaf not in modules:  # packed, or no role at all
            raise AttributeError(role)
        return modules[leaf]


class Rope(NamedTuple):
    """Rotary tables of the fed positions; ``sin`` already carries the sign of the half it multiplies."""

    cos: Float[Tensor, "... T 1 h"]
    sin: Float[Tensor, "... T 1 h"]


# Queries, keys, values and mask of what is fed in; keys, values and mask of what is attended to out.
Exchange = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]


class RMSNorm(nn.Module):
    """Root-mean-square norm with statistics in at least float32; the gain is applied in the model dtype, but where one
    kernel does all of it, before the one rounding."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.shape, self.eps = (width,), eps

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalise the last axis."""
        if x.dtype.itemsize >= 4 or fused(x):
            return functional.rms_norm(x, self.shape, self.weight, self.eps)
        return self.weight * functional.rms_norm(x.float(), self.shape, None, self.eps).to(x.dtype)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream; parts have the checkpoint's names.

    Projections of the same rows may be packed into one product (:meth:`pack`): state dicts keep the checkpoint's names.
    """

    def __init__(self, arch: Architecture, names: Names, layer: int) -> None:
        super().__init__()
        self.arch, self.names = arch, names
        width, head, bias = arch.width, arch.head_width, arch.qkv_bias
        deep = math.sqrt(2 * (layer + 1))
        place(self, names.attention_norm, RMSNorm(width, arch.norm_eps))
        place(self, names.query, _linear(arch, width, arch.heads * head, bias=bias))
        place(self, names.key, _linear(arch, width, arch.kv_heads * head, bias=bias))
        place(self, names.value, _linear(arch, width, arch.kv_heads * head, bias=bias))
        place(self, names.attention_out, _linear(arch, arch.heads * head, width, shrink=deep))
        place(self, names.mlp_norm, RMSNorm(width, arch.norm_eps))
        place(self, names.gate, _linear(arch, width, arch.mlp_width))
        place(self, names.up, _linear(arch, width, arch.mlp_width))
        place(self, names.down, _linear(arch, arch.mlp_width, width, shrink=deep))
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
        """The stream after this block; ``mask`` is True at the keys that may be attended to. The attention, mean over
        the heads, is added to ``maps`` when there is one. ``exchange`` is given the queries, keys, values and mask of
        what is fed, and answers with the keys, values and mask of what is attended to."""
        q, k, v = self.heads(self.attention_input(x), rope)
        if maps is not None:
            maps.append(attention_map(q, k, mask))
        if exchange is not None:
            k, v, mask = exchange(q, k, v, mask)
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
        project = self._modules.get(QKV)
        every = torch.cat([parts.query(n), parts.key(n), parts.value(n)], dim=-1) if project is None else project(n)
        every = every.view(*n.shape[:-1], -1, arch.head_width)
        turned = rotate(every[..., : arch.heads + arch.kv_heads, :], rope)
        q, k = turned.split([arch.heads, arch.kv_heads], dim=-2)
        return q, k, every[..., arch.heads + arch.kv_heads :, :]

    def value_heads(self, n: Float[Tensor, "B T D"]) -> Float[Tensor, "B T K h"]:
        """Values of normed rows."""
        arch, packed = self.arch, self._modules.get(QKV)
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
        if packed is None:
            return parts.down(functional.silu(parts.gate(n)) * parts.up(n))
        return parts.down(gated(packed(n)))

    def pack(self) -> None:
        """Lay the query, key and value projections into one matrix, and gate and up: one product each instead of three
        and two. Nothing happens to projections that are no plain ones (quantised, adapted, or not in memory)."""
        for packed, names in packings(self.names).items():
            linears: list[Any] = [self.get_submodule(name) for name in names]
            if all(type(x) is nn.Linear and not x.weight.is_meta for x in linears):
                self.add_module(packed, _joined(linears))
                for name in names:
                    parent, _, leaf = name.rpartition(".")
                    delattr(self.get_submodule(parent), leaf)

    def unpack(self) -> None:
        """The projections one by one again, as trainers and adapters look for them; views of the packed matrices."""
        for packed, names in packings(self.names).items():
            if packed in self._modules:
                whole: Any = self._modules.pop(packed)
                sizes = self._sizes(packed)
                biases = [None] * len(sizes) if whole.bias is None else whole.bias.split(sizes)
                for name, weight, bias in zip(names, whole.weight.split(sizes), biases, strict=True):
                    place(self, name, _linear_of(weight, bias))

    def _sizes(self, packed: str) -> list[int]:
        arch = self.arch
        if packed == QKV:
            return [heads * arch.head_width for heads in (arch.heads, arch.kv_heads, arch.kv_heads)]
        return [arch.mlp_width, arch.mlp_width]


class Transformer(nn.Module):
    """Embedding, blocks, final norm and head, placed on ``self`` under the names of the checkpoint family.

    A mixin without a constructor: the model class calls :meth:`build` once.
    """

    arch: Architecture
    layered: bool = True
    _tables: Float[Tensor, "P 2 1 h"] | None = None
    _tables_for: torch.dtype | None = None

    def build(self, arch: Architecture, names: Names) -> None:
        """Create every part; weights are initialised by the caller."""
        self.arch = arch
        embedding = nn.Embedding(arch.vocab_size, arch.width)
        embedding.init_std = arch.init_std or 1 / math.sqrt(arch.width)  # type: ignore[assignment]
        place(self, names.embedding, embedding)
        place(self, names.blocks, nn.ModuleList(Block(arch, names, layer) for layer in range(arch.layers)))
        place(self, names.final_norm, RMSNorm(arch.width, arch.norm_eps))
        place(self, names.head, _linear(arch, arch.width, arch.vocab_size))
        self._body = _split(names.embedding, names.blocks, names.final_norm)
        self._output = _split(names.head)

    def compile_blocks(self) -> None:
        """Compile the block: all layers share one graph, since their code is the same and weights are its inputs."""
        for block in self._blocks:
            block.compile()
        self.compiled = True

    def pack(self) -> None:
        """Pack every block (:meth:`Block.pack`)."""
        for block in self._blocks:
            block.pack()

    def unpack(self) -> None:
        """The projections one by one again (:meth:`Block.unpack`), for adapters and training."""
        for block in self._blocks:
            block.unpack()

    @property
    def _blocks(self) -> Any:
        return _parts(self, self._body)[1]

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"] | None = None,
        valid: Bool[Tensor, "B S"] | Bool[Tensor, "B T S"] | None = None,
        memory: Memory | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states after the final norm; see :meth:`dlm.models.backbone.Backbone.hidden`."""
        return self._run(tokens, positions, valid, [], memory)[0]

    def attentive(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"] | None = None,
        valid: Bool[Tensor, "B T"] | Bool[Tensor, "B T T"] | None = None,
        last: int = 4,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T T"]]:
        """Hidden states and attention; see :meth:`dlm.models.backbone.Backbone.attentive`."""
        layers = range(max(0, self.arch.layers - last), self.arch.layers)
        hidden, maps = self._run(tokens, positions, valid, layers)
        return hidden, torch.stack(maps).mean(dim=0)

    def _run(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"] | None,
        valid: Bool[Tensor, "B S"] | Bool[Tensor, "B T S"] | None,
        mapped: Sequence[int],
        memory: Memory | None = None,
    ) -> tuple[Float[Tensor, "B T D"], list[Float[Tensor, "B T T"]]]:
        """Hidden states, and the attention of the layers ``mapped``."""
        embedding, blocks, norm = _parts(self, self._body)
        x = embedding(tokens)
        rope = self._rope(tokens, positions, memory, x.dtype)
        mask = None if valid is None else valid[:, None, None, :] if valid.dim() == 2 else valid[:, None]
        maps: list[Float[Tensor, "B T T"]] = []
        for layer, block in enumerate(blocks):
            if memory is not None:
                x = memory.run(layer, block, x, rope, mask)
            else:
                x = block(x, rope, mask, maps if layer in mapped else None)
        return norm(x), maps

    def _rope(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"] | None,
        memory: Memory | None,
        dtype: torch.dtype,
    ) -> Rope:
        """The tables of the fed positions: looked up where the host knows how far they may reach, and what is kept can
        disturb no training."""
        reach = tokens.shape[1] if positions is None else getattr(memory, "columns", None)
        if reach is None or torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            where = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
            return rope_tables(self.arch, where, dtype)
        kept = self._tables
        if kept is None or kept.shape[0] < reach or kept.device != tokens.device or self._tables_for is not dtype:
            upto = torch.arange(-(-reach // 256) * 256, device=tokens.device)
            kept = self._tables = torch.stack(rope_tables(self.arch, upto, dtype), dim=1)
            self._tables_for = dtype
        cos, sin = (kept[: tokens.shape[1]] if positions is None else kept[positions]).unbind(-3)
        return Rope(cos, sin)

    def head(self, rows: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits of hidden rows, in the model's dtype."""
        (head,) = _parts(self, self._output)
        return head(rows)


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


def rotate(x: Float[Tensor, "B T N h"], rope: Rope) -> Float[Tensor, "B T N h"]:
    """Heads turned by their positions, in the precision of the tables, back in their own dtype."""
    if fused(x):
        return torch.ops.dlm.rotate(x, rope.cos, rope.sin)
    turned = torch.addcmul(x * rope.cos, x.roll(x.shape[-1] // 2, dims=-1).to(rope.sin.dtype), rope.sin)
    return turned.to(x.dtype)


def gated(x: Float[Tensor, "... 2*M"]) -> Float[Tensor, "... M"]:
    """``silu(first half) * second half``."""
    if fused(x):
        return torch.ops.dlm.gated(x)
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


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


def attention_map(
    q: Float[Tensor, "B T H h"],
    k: Float[Tensor, "B S K h"],
    mask: Bool[Tensor, "B 1 1 S"] | Bool[Tensor, "B 1 T S"] | None,
) -> Float[Tensor, "B T S"]:
    """The weights :func:`attend` uses, mean over the heads, in at least float32."""
    k = k.repeat_interleave(q.shape[-2] // k.shape[-2], dim=-2)
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    precise = scores.float() if scores.dtype.itemsize < 4 else scores
    return precise.softmax(dim=-1).mean(dim=1)


def place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Make ``module`` reachable from ``root`` under a dotted path."""
    *parents, leaf = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    root.add_module(leaf, module)


def _split(*paths: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(path.split(".")) for path in paths)


def _parts(root: nn.Module, paths: tuple[tuple[str, ...], ...]) -> list[Any]:
    """The modules at ``paths`` as they are now: quantisers and adapters replace modules in place."""
    parts = []
    for path in paths:
        part = root
        for name in path:
            part = getattr(part, name)
        parts.append(part)
    return parts


def _joined(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One projection onto all of their outputs, one behind the other."""
    biases = [x.bias for x in linears]
    bias = None if biases[0] is None else torch.cat([x.detach() for x in biases])
    whole = _linear_of(torch.cat([x.weight.detach() for x in linears]), bias)
    return whole.requires_grad_(linears[0].weight.requires_grad)


def _linear_of(weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return made


def _saved_apart(block: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """What is packed leaves under the checkpoint's names."""
    for packed, names in packings(block.names).items():
        for kind in ("weight", "bias"):
            whole = state.pop(f"{prefix}{packed}.{kind}", None)
            if whole is not None:
                parts = whole.split(block._sizes(packed))
                state.update({f"{prefix}{name}.{kind}": part for name, part in zip(names, parts, strict=True)})


def _loaded_apart(block: Any, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """And comes back from there."""
    for packed, names in packings(block.names).items():
        for kind in ("weight", "bias"):
            keys = [f"{prefix}{name}.{kind}" for name in names]
            if packed in block._modules and all(key in state for key in keys):
                state[f"{prefix}{packed}.{kind}"] = torch.cat([state.pop(key) for key in keys])


def _linear(arch: Architecture, inputs: int, outputs: int, *, bias: bool = False, shrink: float = 1.0) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=bias)
    linear.init_std = arch.init_std or 1 / (math.sqrt(inputs) * shrink)  # type: ignore[assignment]
    return linear
