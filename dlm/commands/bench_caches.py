"""``dlm bench caches``: what each cache saves and costs beside no cache."""

from __future__ import annotations

from dlm.commands.bench import Request

HELP = """dlm bench caches: what each cache saves beside no cache, on the same model, prompts and sampler.

usage: dlm bench caches [key=value ...]

  caches=all                        every choice below, or a list; a cache's own settings follow a colon:
                                    'caches=[dual,dkv_decode:interval=4]'; none is always measured
  sampler=topk blocks.length=32     the same for all caches; one that must know the order beforehand (dkv_greedy) is
                                    measured with sampler=random, beside no cache with sampler=random
  bench.shapes=[body]               body is 512 wide, 8 layers, vocabulary 2048; also tiny, mid, wide, narrow,
                                    llada-8b, dream-7b
  bench.batches=[1]                 batch sizes
  bench.prompt=512 bench.generation=256
  bench.rounds=1                    whole generations of each cache; figures are medians over the rounds
  bench.turn=32                     steps a cache takes before it is the next one's turn; null: the whole generation
  bench.drift=32                    positions over which the drift is measured, untimed; 0: it is not
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Prints what each cache saves (positions fed, seconds, tokens per second, ratio to none in the same round), then where
its time goes, the time that arithmetic and weight reading alone would take, memory and drift; the last line is
everything as JSON. A cache that refuses the sampler or the model is listed with its reason. Weights are random but for
shape tiny: the drift says which caches are exact, not what a trained model loses (dlm drift does). Heads of random
models are scaled so that they are about as sure of a token as a trained one; otherwise the caches that refresh after
an unsure commit (entropy, adaptive) would refresh at every step.

The default takes about a quarter of an hour on two CPU cores, 'caches=[dual,vicinity,dkv_decode]' five minutes.

groups:
{groups}

examples:
  dlm bench caches
  dlm bench caches 'caches=[dual,dual:every=8,dkv_decode]' bench.rounds=3
  dlm bench caches bench.shapes=[tiny] bench.prompt=64 bench.generation=64
  dlm bench caches bench.shapes=[llada-8b] bench.batches=[1,8] bench.prompt=800 bench.turn=null bench.device=cuda
"""


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    request = Request("bench_caches", overrides, HELP, {"cache": ()})
    if request.help:
        return 0
    from dlm.bench.caches import NONE, bench_caches

    caches, ahead = request.parts("cache", always=[NONE]), request.part("sampler", "random")
    bench_caches(request.settings, caches, request.sampler, ahead)
    return 0
