"""What a session with a GPU measures, without Hydra: LLaDA-8B and Dream-7B shapes in bfloat16, batch 1 and 8.

    python -m pytest -m gpu && PYTHONPATH=. python scripts/bench_gpu.py

The figures go into docs/benchmarks.md.
"""

from __future__ import annotations

import sys

import torch

import samplers
from dlm.bench.command import BenchSettings, bench
from dlm.bench.samplers import SamplersBenchSettings, bench_samplers


def main() -> int:
    """Run the benchmark; 2 when there is no GPU."""
    if not torch.cuda.is_available():
        print("this needs a CUDA device; on a CPU run: dlm bench", file=sys.stderr)
        return 2
    sampler = samplers.topk(blocks=samplers.Fixed(32))
    full = BenchSettings(
        shapes=("llada-8b", "dream-7b"), batches=(1, 8), prompt=128, naive_steps=3, device="cuda", dtype="bfloat16"
    )  # fmt: skip
    bench(full, sampler)
    bench(BenchSettings(shapes=("narrow", "wide"), device="cuda", dtype="bfloat16"), sampler)
    costs = SamplersBenchSettings(shapes=("narrow", "llada-8b"), device="cuda", dtype="bfloat16")
    bench_samplers(costs, {name: getattr(samplers, name)() for name in samplers.PRESETS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
