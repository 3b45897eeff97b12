"""``dlm bench samplers``: what each sampler costs beside the threshold rule."""

from __future__ import annotations

from dlm.commands.bench import Request

HELP = """dlm bench samplers: seconds per step that each sampler spends outside the model, beside the threshold rule's.

usage: dlm bench samplers [key=value ...]

  samplers=all                          every choice below but parts, or a list; a sampler's own settings follow a
                                        colon: 'samplers=[klass,topk:tokens_per_step=2]'; threshold is always measured
  bench.shapes=[narrow]                 narrow has LLaDA's vocabulary under almost no body; also tiny, mid, wide,
                                        llada-8b, dream-7b
  bench.batches=[1,8]                   batch sizes
  bench.prompt=32 bench.new=32          positions of the prompt, and open positions: one block, at most 32
  bench.runs=5 bench.steps=3            rounds, and steps from a fresh canvas that are timed in each
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Prints a table and, as the last line, everything as JSON. In every round each sampler decodes the same random canvases,
one after the other in an order of that round, threshold several times. Figures are medians over the rounds, ratios
those to threshold in the same round. "ms" and "ratio" are a step without the model's body and head, "step ratio" is
all of it, "scored" is how many positions per row the head was evaluated at for proposals. What is above a ratio of 3
and declares no reason is named below the table. Settings of a sampler (sampler.temperature=0.5) hold for all of them;
one that refuses is listed with its reason.

groups:
{groups}

examples:
  dlm bench samplers
  dlm bench samplers samplers=[klass,dawn] bench.runs=9 bench.threads=1
  dlm bench samplers bench.batches=[1] bench.shapes=[narrow,wide] sampler.temperature=0.5
  dlm bench samplers bench.device=cuda bench.dtype=bfloat16
"""


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    request = Request("bench_samplers", overrides, HELP, {"sampler": ("parts",)})
    if request.help:
        return 0
    from dlm.bench.samplers import BASELINE, bench_samplers

    bench_samplers(request.settings, request.parts("sampler", always=[BASELINE]))
    return 0
