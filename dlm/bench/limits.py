"""What the machine can do, measured here and now, and what a forward must do at least."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dlm.engine.forward import rows_at_once
from dlm.models import LanguageModel
from dlm.models.architecture import Architecture
from dlm.models.block import Block
from dlm.models.quantising import weight_bytes


@dataclass(frozen=True)
class Limits:
    """Arithmetic and memory speed of the device in the dtype of the run."""

    flops: float  # multiply-adds counted as two, per second, of a large matrix product
    bandwidth: float  # bytes read per second when weights are streamed through a matrix-vector product

    def seconds(self, flops: float, weight_bytes: float) -> float:
        """The time arithmetic or weight reading alone would take, whichever is longer."""
        return max(flops / self.flops, weight_bytes / self.bandwidth)


def fastest(work: Callable[[], object], device: torch.device, repeats: int = 9) -> float:
    """Seconds of the fastest call of ``work``: a limit is what the machine can do undisturbed. The first call does
    not count."""
    seconds = []
    for _ in range(repeats + 1):
        _wait(device)
        begin = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def measure(device: torch.device, dtype: torch.dtype) -> Limits:
    """Time a large matrix product and a large matrix-vector product."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    flops = 2 * size**3 / fastest(lambda: a @ a, device)
    rows = 65536 if device.type == "cuda" else 16384
    weights = torch.randn(rows, 4096, device=device, dtype=dtype)
    vector = torch.randn(4096, device=device, dtype=dtype)
    bandwidth = weights.numel() * weights.element_size() / fastest(lambda: weights @ vector, device)
    return Limits(flops, bandwidth)


def forward_cost(model: LanguageModel, tokens: int, keys: int, rows: int) -> tuple[float, float]:
    """``(flops, weight bytes)`` of one forward: ``tokens`` through the body attending to ``keys``, ``rows`` through
    the head: twice the multiplications of the weights, and attention."""
    arch = model.backbone.arch  # type: ignore[attr-defined]
    head = arch.vocab_size * arch.width
    body, touched = body_weights(arch, tokens)
    attention = 4 * arch.layers * tokens * keys * arch.heads * arch.head_width
    itemsize = torch.finfo(model.dtype).bits // 8
    reads = -(-rows // rows_at_once(model.device, arch.vocab_size))  # of the head's matrix, one for each call
    read = itemsize * touched
    if getattr(model.backbone, "quantised", None):
        blocks: Any = [part for part in model.backbone.modules() if isinstance(part, Block)]  # type: ignore[attr-defined]
        read = sum(map(weight_bytes, blocks))
    return 2 * tokens * body + attention + 2 * rows * head, read + itemsize * head * max(1, reads)


def body_weights(arch: Architecture, tokens: int) -> tuple[float, float]:
    """How many weights of the blocks a position is multiplied with, and how many a forward of ``tokens`` reads.

    They are the same without experts. Of those it reads as many as positions that choose independently would hit: an
    upper estimate, since neighbours choose alike.
    """
    projections = arch.width * arch.head_width * 2 * (arch.heads + arch.kv_heads)
    attention, mlp = arch.layers * projections, 3 * arch.width * arch.mlp_width
    about = arch.experts
    if about is None:
        return (attention + arch.layers * mlp,) * 2
    mixed = len(about.layers)
    hit = about.count * (1 - (1 - about.chosen / about.count) ** tokens)
    shared = attention + (arch.layers - mixed) * mlp + mixed * arch.width * (about.count + 3 * about.shared_width)
    each = mixed * 3 * arch.width * about.width
    return shared + each * about.chosen, shared + each * hit


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
