"""One of several processes: gsm8k on the documents of the tests. Started by torchrun."""

import atexit
import json
import os
import sys
from pathlib import Path

import lm_eval.evaluator
import torch.distributed as dist

import samplers
from dlm.evaluation.harness import evaluate
from tests.evaluation.harness_doubles import local_tasks, scripted

lm_eval.evaluator.add_env_info = lambda results: None  # asks pip and git, which takes long
folder = Path(sys.argv[1])
rank = os.environ["RANK"]
atexit.register(lambda: (folder / f"left{rank}").write_text(str(not dist.is_initialized())))  # runs last
model = scripted(samples=folder / "samples.jsonl", sampler=samplers.topk(tokens_per_step=4))
results = evaluate(model, ["gsm8k"], task_manager=local_tasks(folder / f"tasks{model.rank}"), num_fewshot=2,
                   bootstrap_iters=0)  # fmt: skip
(folder / f"world{model.rank}").write_text(str(model.world_size))
if results is not None:
    (folder / "results.json").write_text(json.dumps(results["results"]["gsm8k"], default=float))
