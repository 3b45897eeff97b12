"""What a forward must read and multiply at least, for dense bodies and for experts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlm.bench.limits import body_weights, forward_cost
from dlm.models.untrained import SHAPES

# (shape, positions fed, gigabytes of a step in bfloat16 with its head read once, experts hit in a layer)
STEPS = [
    ("sdar-8b", 4, 15.14, None), ("sdar-8b", 32, 15.14, None), ("fast-dllm-v2-7b", 32, 14.14, None),
    ("llada2-mini", 1, 2.2, 8.0), ("llada2-mini", 4, 4.9, 30.5), ("llada2-mini", 32, 20.8, 163.3),
    ("llada2-mini", 64, 27.9, 222.4), ("llada-moe-7b-a1b", 32, 13.9, 63.1), ("sdar-30b-a3b", 4, 15.7, 29.1),
    ("sdar-30b-a3b", 32, 53.1, 111.8),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fed", "gigabytes", "hit"), STEPS)
def test_a_step_reads_more_experts_the_more_positions_it_is_fed(
    name: str, fed: int, gigabytes: float, hit: float | None
) -> None:
    arch = SHAPES[name]().architecture()
    shown: Any = SimpleNamespace(backbone=SimpleNamespace(arch=arch), dtype=torch.bfloat16, device=torch.device("meta"))
    flops, read = forward_cost(shown, fed, 0, fed)
    assert read / 1e9 == pytest.approx(gigabytes, rel=0.01)
    each, touched = body_weights(arch, fed)
    assert flops == pytest.approx(2 * fed * (each + arch.vocab_size * arch.width))
    if arch.experts is None:
        assert each == touched
    else:
        layers = len(arch.experts.layers) * 3 * arch.width * arch.experts.width
        assert (touched - body_weights(arch, 0)[1]) / layers == pytest.approx(hit, rel=0.01)
