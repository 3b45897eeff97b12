"""``dlm bench drafting``: FreeDave beside the undrafted run of the same prompts."""

from __future__ import annotations

from dlm.commands.bench import Request

HELP = """dlm bench drafting: FreeDave (draft and verify) beside the undrafted run of the same prompts.

usage: dlm bench drafting [key=value ...]

  bench.models=[tiny,body]          tiny answers held-out questions; the others have random weights and prompts of
                                    random tokens: body, mid, wide, narrow, llada-8b, dream-7b
  bench.draft_lengths=[2,4,8]       may hold auto
  bench.layouts=[batch,tree]        where the drafts stand
  'samplers=[topk,threshold:threshold=0.9]'   all, or a list; settings follow a colon
  caches=[none,dual]                likewise
  blocks.length=16                  the same for all
  bench.tasks=[puzzle/sudoku] bench.questions=4   what tiny is asked, questions of each task in every round
  bench.prompt=64 bench.generation=32             of models with random weights
  bench.batches=[1]                 batch sizes
  bench.rounds=3 bench.turn=8       whole decodes of each; forwards after which the next one has its turn
  bench.versions=[1,2,4,8]          versions of a row whose forward is timed
  bench.flip_dtypes=[float32,bfloat16,float64] bench.flip_questions=8
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Per model and kind of prompts: forwards, drafts accepted, positions fed and answers that differ; then seconds, memory
and the time that arithmetic or weight reading alone would take. The undrafted run is measured twice: how far the second
is from a ratio of 1 is the noise. Then what one forward of several versions costs, whatever becomes of them, and from
it the share of drafts that must hold for drafting to pay (random weights say nothing of how many do). Then how many
answers of tiny differ from the undrafted ones in each number format: ties that rounding decides the other way; none in
float64. The last line is everything as JSON.

The default takes about half an hour on one CPU core, 'bench.models=[tiny] bench.flip_dtypes=[]' five minutes.

groups:
{groups}

examples:
  dlm bench drafting
  dlm bench drafting bench.models=[tiny] bench.draft_lengths=[4,auto] bench.rounds=5
  dlm bench drafting bench.models=[body] bench.batches=[1,4] 'samplers=[topk]' 'caches=[dual]'
  dlm bench drafting bench.models=[llada-8b] bench.prompt=256 bench.generation=128 blocks.length=32 bench.device=cuda
"""


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    request = Request("bench_drafting", overrides, HELP, {"sampler": ("parts",), "cache": ()})
    if request.help:
        return 0
    from dlm.bench.drafting import bench_drafting

    samplers, caches = request.parts("sampler"), request.parts("cache")
    bench_drafting(request.settings, samplers, caches, stepper=request.sampler)
    return 0
