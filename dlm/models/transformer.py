"""The one bidirectional transformer: pre-norm blocks, rotary positions, gated MLP, full attention.

LLaDA (arXiv 2502.09992) and Dream (arXiv 2508.15487) differ only in the numbers of :class:`Architecture` and
in what their checkpoints call the parts (:class:`Names`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dlm.errors import CheckpointError
from dlm.models.architecture import Architecture, Names, Rope, rope_tables
from dlm.models.backbone import Memory
from dlm.models.block import Block
from dlm.models.parts import RMSNorm, linear, place


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
        place(self, names.final_norm, RMSNorm(arch))
        place(self, names.head, linear(arch, arch.width, arch.vocab_size))
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

    def settle_experts(self) -> None:
        """Lay the experts of every layer together, as they are computed.

        Raises:
            CheckpointError: the weights of a router are no numbers.
        """
        for layer, block in enumerate(self._blocks):
            if block.mixed:
                block.mixture.bank.merge()
                if not bool(block.mixture.router.weight.isfinite().all()):
                    raise CheckpointError(
                        f"the router of layer {layer} holds NaN or infinity, so no expert can be chosen; download the"
                        " weights again"
                    )

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
        """Logits of hidden rows, in the model's dtype or, where the family has them so, in at least float32."""
        (head,) = _parts(self, self._output)
        logits = head(rows)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)) if self.arch.float32_logits else logits


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
