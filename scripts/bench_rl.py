"""Three estimators of log-probabilities compared on rollouts of the packaged model: docs/training.md.

    python scripts/bench_rl.py [FOLDER] [--steps N] [--seeds N] [--tasks NAME ...] [--picture FILE]

Every run is `dlm train rl` with the same questions, noise and settings but the estimator. The numbers of rollouts are
such that all feed the model as many rows, a forward with its backward pass counted as three. A killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dlm.commands.train_rl import run
from dlm.training.curves import draw

TASKS = ("waiting_line/shuffle", "math/word_problem")
# States an answer is replayed in; a rollout of ASS has five steps, of its last one on.
STATES = {"trajectory": 5, "coupled": 3, "full": 1}
WEIGHTING = {"trajectory": "transitions"}
# Trials of 1e-3, 3e-4 and 1e-4 on `shuffle`: 1e-3 breaks down, for the trajectory with one seed of two.
RATES = {"trajectory": 3e-4, "coupled": 3e-4, "full": 1e-4}


def rollouts(estimator: str, steps: int) -> int:
    """How many a run has that feeds as many rows as ``steps`` of the trajectory estimator."""
    cost = {name: 5 + 3 * states for name, states in STATES.items()}
    return round(steps * cost["trajectory"] / cost[estimator])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/rl"))
    parser.add_argument("--steps", type=int, default=40, help="rollouts of the trajectory estimator")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--picture", type=Path, help="where to draw the held-out scores; none: nowhere")
    given = parser.parse_args()
    logs: dict[str, dict[str, list[list[dict[str, Any]]]]] = {task: {} for task in given.tasks}
    for seed in range(given.seeds):
        for task in given.tasks:
            for estimator in STATES:
                out = given.folder / f"{task.replace('/', '-')}-{estimator}-{seed}"
                if not (out / "training.json").is_file():
                    steps = rollouts(estimator, given.steps)
                    run([
                        f"out={out}", f"task={task}", f"seed={seed}", "pictures=false", f"training.steps={steps}",
                        f"training.estimator={estimator}", f"training.rate={RATES[estimator]}",
                        f"training.weighting={WEIGHTING.get(estimator, 'tokens')}",
                    ])  # fmt: skip
                lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
                logs[task].setdefault(estimator, []).append(lines)
    for task, found in logs.items():
        print(f"\n{task}\n\n| estimator | rollouts | reward, first tenth | last tenth | held out, before | after |")
        print("|---|---|---|---|---|---|")
        for estimator, runs in found.items():
            print(f"| {estimator} | {rollouts(estimator, given.steps)} | {' | '.join(_figures(runs))} |")
        if given.picture is not None:
            name = given.picture.with_name(f"{given.picture.stem}-{task.rpartition('/')[2]}{given.picture.suffix}")
            draw(found, "reward", name, task)
    return 0


def _figures(runs: list[list[dict[str, Any]]]) -> list[str]:
    """Means over the seeds, and the seeds one by one."""
    rewards = [[line["reward"] for line in lines if "reward" in line] for lines in runs]
    tenth = [max(1, len(found) // 10) for found in rewards]
    held = [[line["held_out"] for line in lines if "held_out" in line] for lines in runs]
    parts = [
        [sum(found[:n]) / n for found, n in zip(rewards, tenth, strict=True)],
        [sum(found[-n:]) / n for found, n in zip(rewards, tenth, strict=True)],
        [found[0] for found in held],
        [found[-1] for found in held],
    ]
    return [f"{sum(part) / len(part):.2f} ({', '.join(f'{value:.2f}' for value in part)})" for part in parts]


if __name__ == "__main__":
    sys.exit(main())
