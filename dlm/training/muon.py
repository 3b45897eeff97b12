"""Muon in float32: momentum whose update is made orthogonal (Jordan et al., 2024).

torch.optim.Muon orthogonalises in bfloat16, which a CPU without bfloat16 units does some twenty times slower than
float32; matrices of one shape are also taken together here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(update: Float[Tensor, "N R C"], steps: int = 5) -> Float[Tensor, "N R C"]:
    """Matrices with nearly the same singular vectors and singular values near 1 (a quintic Newton-Schulz iteration)."""
    a, b, c = _COEFFICIENTS
    wide = update.shape[1] <= update.shape[2]
    x = update if wide else update.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled by sqrt(max(1, rows / columns)). For matrices only."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    same_shape[p.shape].append(p)
            for params in same_shape.values():
                self._step_shape(params, group)

    def _step_shape(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = []
        for p in params:
            assert p.grad is not None
            buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(buffer, group["momentum"]))
        rows, columns = params[0].shape
        scale = group["lr"] * max(1.0, rows / columns) ** 0.5
        for p, update in zip(params, orthogonalise(torch.stack(updates).float()), strict=True):
            p.add_(update.to(p.dtype), alpha=-scale)
