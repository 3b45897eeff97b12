"""``dlm bench decode``, which is ``dlm bench`` without a word: what a step costs."""

from __future__ import annotations

from dlm.commands.bench import Request

HELP = """dlm bench: seconds per step inside the model and outside it, beside a naive decoder on the same weights.

usage: dlm bench [decode] [key=value ...]

  bench.shapes=[tiny,mid,wide,narrow]   tiny is the packaged model; the others, and llada-8b and dream-7b,
                                        have random weights
  bench.batches=[1]                     batch sizes
  bench.prompt=32 bench.new=128 bench.block=32 bench.runs=3 bench.naive_steps=5
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1
  sampler=topk                          any sampler; figures are those of its steps

Prints a table and, as the last line, everything as JSON. Medians over the steps of all runs; a "full block" is a step
with bench.block positions open. The limit is what arithmetic or weight reading alone would take, from speeds measured
in the same run.

groups:
{groups}

examples:
  dlm bench
  dlm bench bench.shapes=[narrow] bench.new=512 bench.naive_steps=0
  dlm bench bench.shapes=[llada-8b] bench.batches=[1,8] bench.device=cuda bench.dtype=bfloat16 bench.naive_steps=0
"""


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    request = Request("bench", overrides, HELP, {})
    if request.help:
        return 0
    from dlm.bench.decode import bench_decode

    bench_decode(request.settings, request.sampler)
    return 0
