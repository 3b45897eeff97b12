"""Measure a model on held-out questions and write the table into its model card.

    python scripts/eval_tiny.py                          # every task the packaged model was trained on, n = 100
    python scripts/eval_tiny.py runs/copy --n 40 --tasks waiting_line/copy waiting_line/shuffle --workers 1

Writes evaluation.json and evaluation.csv into the model's folder (accuracy, mean forwards, tokens, tokens per forward
at 1, 2, 4 and 8 tokens per forward and at confidence threshold 0.9) and renews README.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import dlm
import dlm.tasks
import samplers
from dlm.evaluation.scoring import score
from dlm.models.checkpoint import resolve
from dlm.training.card import write_card

BLOCK = 16
COLUMNS = {
    **{f"k={k}": partial(samplers.topk, tokens_per_step=k) for k in (1, 2, 4, 8)},
    "threshold 0.9": partial(samplers.threshold, 0.9),
}
FIGURES = ("accuracy", "forwards", "tokens", "tokens_per_forward", "n")


def measure(folder: str, n: int, task: str) -> dict[str, Any]:
    """Every column for one task; runs in its own process."""
    torch.set_num_threads(1)
    model, asked = dlm.load(folder), dlm.tasks.get(task)
    blocks = samplers.Aligned() if model.description.attention_block else samplers.Fixed(BLOCK)
    found = {name: score(model, asked, make(blocks=blocks), n=n) for name, make in COLUMNS.items()}
    scores = {name: {key: figures[key] for key in FIGURES} for name, figures in found.items()}
    return {"canvas": asked.canvas, "scores": scores}


def write(folder: Path, evaluation: dict[str, Any]) -> None:
    """evaluation.json, evaluation.csv and, beside a training history, the model card."""
    (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n", encoding="utf-8")
    rows = [
        {"task": task, "decoding": column, "canvas": entry["canvas"], **score}
        for task, entry in evaluation["tasks"].items()
        for column, score in entry["scores"].items()
    ]
    with (folder / "evaluation.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    if (folder / "training.json").is_file():
        write_card(folder)


def main() -> None:
    """Evaluate as asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny", help="'tiny' or a model folder")
    parser.add_argument("--n", type=int, default=100, help="held-out questions per task")
    parser.add_argument("--tasks", nargs="+", help="task names; default: those in the model's training.json")
    parser.add_argument("--workers", type=int, default=2, help="processes, one task at a time each")
    arguments = parser.parse_args()
    folder, console = resolve(arguments.model), Console()
    trained_on = folder / "training.json"
    known = list(json.loads(trained_on.read_text())["settings"]["tasks"]) if trained_on.is_file() else dlm.tasks.names()
    names, started, results = arguments.tasks or known, time.perf_counter(), {}
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for name, entry in zip(names, pool.map(partial(measure, str(folder), arguments.n), names), strict=True):
            results[name] = entry
            cells = (f"{c} {s['accuracy']:.0%}/{s['forwards']:.1f}" for c, s in entry["scores"].items())
            left = (time.perf_counter() - started) / len(results) * (len(names) - len(results))
            console.print(f"{name}: {'  '.join(cells)}   ({left:.0f} s left)", highlight=False)
    block = dlm.load(folder).description.attention_block or BLOCK
    write(folder, {"n": arguments.n, "block": block, "columns": list(COLUMNS), "tasks": results})
    console.print(f"written to {folder}: evaluation.json, evaluation.csv, README.md")


if __name__ == "__main__":
    main()
