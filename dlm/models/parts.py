"""What a block is made of: projections and norms, how they are placed under a checkpoint's names, and found again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dlm.models.architecture import Architecture, Names
from dlm.models.fused import fused


class Parts:
    """The modules of a block under the names of their roles, each found by one look into its parent: quantisers and
    adapters replace modules in place."""

    def __init__(self, block: nn.Module, names: Names) -> None:
        self._places: dict[str, tuple[dict[str, Any], str]] = {}
        for role, path in vars(names).items():
            parent, _, leaf = path.rpartition(".")
            if path and role not in ("embedding", "blocks", "final_norm", "head"):
                self._places[role] = (block.get_submodule(parent)._modules, leaf)

    def __getattr__(self, role: str) -> Any:
        modules, leaf = self.__dict__.get("_places", {}).get(role, ({}, role))
        if leaf not in modules:  # packed, or no role at all
            raise AttributeError(role)
        return modules[leaf]


class RMSNorm(nn.Module):
    """Root-mean-square norm with statistics in at least float32; the gain is applied in the model dtype, but before the
    one rounding where the family does so, and where one kernel does all of it."""

    def __init__(self, arch: Architecture, width: int = 0) -> None:
        super().__init__()
        self.shape, self.eps, self.precise = (width or arch.width,), arch.norm_eps, arch.gain_in_float32
        self.weight = nn.Parameter(torch.ones(self.shape))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalise the last axis."""
        if x.dtype.itemsize >= 4 or fused(x):
            return functional.rms_norm(x, self.shape, self.weight, self.eps)
        if self.precise:
            return functional.rms_norm(x.float(), self.shape, self.weight.float(), self.eps).to(x.dtype)
        return self.weight * functional.rms_norm(x.float(), self.shape, None, self.eps).to(x.dtype)


def place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Make ``module`` reachable from ``root`` under a dotted path."""
    *parents, leaf = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    root.add_module(leaf, module)


def linear(arch: Architecture, inputs: int, outputs: int, *, bias: bool = False, shrink: float = 1.0) -> nn.Linear:
    """A projection that knows its initial scale."""
    made = nn.Linear(inputs, outputs, bias=bias)
    made.init_std = arch.init_std or 1 / (math.sqrt(inputs) * shrink)  # type: ignore[assignment]
    return made


def joined(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One projection onto all of their outputs, one behind the other."""
    biases = [x.bias for x in linears]
    bias = None if biases[0] is None else torch.cat([x.detach() for x in biases])
    whole = linear_of(torch.cat([x.weight.detach() for x in linears]), bias)
    return whole.requires_grad_(linears[0].weight.requires_grad)


def linear_of(weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None) -> nn.Linear:
    """The projection that has this weight and bias, which are not copied."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return made
