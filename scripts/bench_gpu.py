"""What a session with a GPU measures, without Hydra: LLaDA-8B and Dream-7B shapes in bfloat16, batch 1 and 8.

    python -m pytest -m gpu && PYTHONPATH=. python scripts/bench_gpu.py [PART ...]

Without a PART everything is measured, in about an hour; each part is one of :data:`PARTS` and takes a few minutes. The
figures go into docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import cache
import samplers
from dlm.bench.caches import CachesBenchSettings, bench_caches
from dlm.bench.decode import DecodeBenchSettings, bench_decode
from dlm.bench.drafting import DraftingBenchSettings, bench_drafting
from dlm.bench.samplers import SamplersBenchSettings, bench_samplers


def every_decode() -> None:
    """A step inside the model and outside it."""
    sampler = samplers.topk(blocks=samplers.Fixed(32))
    full = DecodeBenchSettings(
        shapes=("llada-8b", "dream-7b"), batches=(1, 8), prompt=128, naive_steps=3, device="cuda", dtype="bfloat16"
    )  # fmt: skip
    bench_decode(full, sampler)
    bench_decode(DecodeBenchSettings(shapes=("narrow", "wide"), device="cuda", dtype="bfloat16"), sampler)


def every_sampler() -> None:
    """What each sampler costs outside the model."""
    costs = SamplersBenchSettings(shapes=("narrow", "llada-8b"), device="cuda", dtype="bfloat16")
    trained = ("learn2pd", "policy")  # a random model has none
    bench_samplers(costs, {name: getattr(samplers, name)() for name in samplers.PRESETS if name not in trained})


def every_cache(
    shape: str,
    prompt: int,
    generation: int,
    batches: tuple[int, ...] = (1, 8),
    device: str = "cuda",
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """What each cache saves, a generation of one cache at a time, so that no two caches are in memory together."""
    settings = CachesBenchSettings(
        shapes=(shape,), batches=batches, prompt=prompt, generation=generation, turn=None, device=device, dtype=dtype
    )  # fmt: skip
    ready = {name: getattr(cache, name)() for name in cache.PRESETS}
    return bench_caches(settings, ready, samplers.topk(), samplers.random())


def every_draft(
    shape: str,
    prompt: int,
    generation: int,
    batch: int,
    device: str = "cuda",
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """What drafting saves and costs, and what a forward of several versions takes; a decode at a time."""
    settings = DraftingBenchSettings(
        models=(shape,), batches=(batch,), prompt=prompt, generation=generation, draft_lengths=(2, 4, 8, "auto"),
        turn=None, device=device, dtype=dtype,
    )  # fmt: skip
    blocks = samplers.Fixed(min(32, generation))
    ways = {"topk": samplers.topk(blocks=blocks), "threshold:threshold=0.9": samplers.threshold(0.9, blocks=blocks)}
    return bench_drafting(settings, ways, {"none": cache.none(), "dual": cache.dual()}, samplers.topk(blocks=blocks))


# A long question with a short answer, and the other way round.
PARTS: dict[str, Callable[[], Any]] = {
    "decode": every_decode,
    "samplers": every_sampler,
    "caches/llada-8b/800+256": partial(every_cache, "llada-8b", 800, 256),
    "caches/llada-8b/64+512": partial(every_cache, "llada-8b", 64, 512),
    "caches/dream-7b/800+256": partial(every_cache, "dream-7b", 800, 256),
    "caches/dream-7b/64+512": partial(every_cache, "dream-7b", 64, 512),
    "drafting/llada-8b/x1": partial(every_draft, "llada-8b", 256, 64, 1),
    "drafting/llada-8b/x4": partial(every_draft, "llada-8b", 256, 64, 4),
}


def main(parts: list[str]) -> int:
    """Run the parts; 2 when there is no GPU or no such part."""
    if unknown := [part for part in parts if part not in PARTS]:
        print(f"unknown part {unknown[0]!r}; known are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("this needs a CUDA device; on a CPU run: dlm bench", file=sys.stderr)
        return 2
    for part in parts or PARTS:
        print(f"== {part}", flush=True)
        PARTS[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
