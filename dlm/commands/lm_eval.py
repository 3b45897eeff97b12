"""``dlm lm-eval``: tasks of lm-evaluation-harness."""

from __future__ import annotations

import logging
import os
from typing import Any

from dlm.commands.common import answered_help, split_texts
from dlm.configuration import compose_config, parts_of

HELP = """dlm lm-eval: tasks of lm-evaluation-harness, answered with any model, sampler, cache and drafter.

usage: dlm lm-eval --tasks TASK [flags of `lm-eval run`] [key=value ...]

flags (all of `lm-eval run --help` but --model and --model_args, which are said with key=value):
  --tasks gsm8k,gsm8k_cot  tasks, groups or YAML files; `lm-eval ls tasks` lists them, --include_path DIR adds yours
  --limit 20               questions per task
  --num_fewshot 5          worked examples
  --apply_chat_template    ask as a chat
  --gen_kwargs do_sample=true,temperature=0.5,max_gen_toks=512    one word, commas between
  --use_cache FILE         keep answers: a run that was killed goes on where it was
  --output_path DIR  --log_samples    write results, and every answer with its score

settings:
  max_new_tokens=256       positions to fill where the task names no number
  stop_early=false         decode behind a stop string too, as published figures did; the answers are the same
  seed=0  batch_size=8
  samples=FILE             every answer with its counters, one line each; they go on counting when the answer comes
                           from the cache. Without it: beside the cache, or in --output_path
  path=FILE                the questions of the one task, in place of its data set: no network is needed
  shots_path=FILE          the same for its worked examples; without it other lines of path=
  likelihood.mc_num=128    masks a log-likelihood is averaged over; all of them where there are no more
  likelihood.check_greedy=false    faster, where no metric asks whether an answer is the model's own

The table holds the harness's scores and, as filter `dlm`, means over requests: forwards, tokens before the first end
token and stop string, tokens per forward. They are the same with and without --use_cache.

groups:
{groups}

examples:
  dlm lm-eval --tasks gsm8k --limit 5 path=gsm8k_test.jsonl sampler=threshold sampler.threshold=0.8 max_new_tokens=64
  dlm lm-eval --tasks gsm8k --apply_chat_template --num_fewshot 4 model=llada-8b-instruct batch_size=16 --use_cache c
  dlm lm-eval --tasks arc_challenge model=llada-8b-base likelihood.check_greedy=false batch_size=32
  accelerate launch --num_processes 4 -m dlm lm-eval --tasks gsm8k model=dream-7b-instruct --output_path results
"""
TEXT_KEYS = ("samples", "path", "shots_path")


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    asked = [argument for argument in overrides if argument in ("-h", "--help", "--cfg")]
    if asked:
        rest = [o for o in overrides if "=" in o and not o.startswith("-")]
        answered_help([asked[0], *split_texts(rest, TEXT_KEYS)[1]], HELP, "lm_eval")
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(os.environ.get("LMEVAL_LOG_LEVEL", "WARNING").upper())
    from dlm.evaluation.harness import launch
    from dlm.evaluation.harness.model import HarnessModel
    from dlm.evaluation.harness.settings import built

    flags, ours = launch.split_flags(overrides)
    texts, ours = split_texts(ours, TEXT_KEYS)
    wanted = launch.read_flags(flags)
    parts = parts_of(compose_config("lm_eval", [*_from_flags(wanted, flags), *ours]))
    samples = launch.samples_file(texts.get("samples"), wanted)
    tasks, manager = launch.resolve_tasks(wanted, texts.get("path"), texts.get("shots_path"))
    model = built(parts, HarnessModel, samples)
    results = launch.run_harness(wanted, model, tasks, manager)
    if results is not None:
        if wanted.show_config:
            print(launch.as_json(results))
        print(launch.table(results))
        if samples is not None:
            print(f"answers and counters: {samples}")
    return 0


def _from_flags(wanted: Any, flags: list[str]) -> list[str]:
    """What two of the harness's flags mean here; overrides that follow them win."""
    given = {flag.partition("=")[0] for flag in flags}
    found = []
    if given & {"--batch_size", "-b"}:
        found.append(f"batch_size={wanted.batch_size}")
    if "--device" in given:
        found.append(f"model.device='{wanted.device}'")
    return found
