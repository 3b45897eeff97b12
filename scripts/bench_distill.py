"""What certainty-forcing distillation does to the packaged model: docs/training.md.

    python scripts/bench_distill.py [FOLDER] [--n N] [--steps N] [--rate R] [--questions N]

Three models answer the same held-out questions of every task: the one before, one distilled with the certainty term and
one without (consistency alone, `beta` 0). Runs that were killed go on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dlm
import samplers
from dlm import tasks
from dlm.commands.train_distill import run
from dlm.evaluation.scoring import score

SAMPLERS = {"entropy_threshold 0.5": samplers.entropy_threshold(0.5), "threshold 0.9": samplers.threshold(0.9)}
BETAS = {"certainty": 2.0, "consistency": 0.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/distill"))
    parser.add_argument("--n", type=int, default=80, help="training questions of each task")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--questions", type=int, default=100, help="held-out ones of each task")
    given = parser.parse_args()
    models = {"before": dlm.load("tiny")}
    for name, beta in BETAS.items():
        out = given.folder / name
        if not (out / "training.json").is_file():
            out.mkdir(parents=True, exist_ok=True)
            if not (out / "answers").exists():  # the same for both
                (given.folder / "answers").mkdir(exist_ok=True)
                (out / "answers").symlink_to((given.folder / "answers").resolve())
            run([
                f"out={out}", f"n={given.n}", f"training.beta={beta}", f"training.steps={given.steps}",
                f"training.rate={given.rate}", f"training.block_length={given.block}", "pictures=false",
                "training.decay_from=0.3",
            ])  # fmt: skip
        models[name] = dlm.load(out / "model")
    for label, sampler in SAMPLERS.items():
        found = {
            name: {task: score(model, task, sampler, n=given.questions) for task in tasks.names()}
            for name, model in models.items()
        }
        print(f"\n{label}: accuracy, % / forwards\n\n| task | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
        for task in tasks.names():
            print(f"| {task.rpartition('/')[2]} | {' | '.join(_cell(figures[task]) for figures in found.values())} |")
        print(
            f"| mean; forwards, ratio | {' | '.join(_sum(found['before'], one) for one in found.values())} |",
            flush=True,
        )
    return 0


def _cell(figures: Mapping[str, Any]) -> str:
    return f"{100 * figures['accuracy']:.0f} / {figures['forwards']:.2f}"


def _sum(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Mean accuracy, and the geometric mean over tasks of the forwards beside those of before."""
    ratios = [math.log(after[task]["forwards"] / before[task]["forwards"]) for task in before]
    accuracy = sum(figures["accuracy"] for figures in after.values()) / len(after)
    return f"{100 * accuracy:.1f} / {math.exp(sum(ratios) / len(ratios)):.2f}"


if __name__ == "__main__":
    sys.exit(main())
