"""What `dlm eval` costs beside `dlm.generate`: the same prompts, batches and model, in one process, in turn.

python scripts/bench_eval.py [task ...]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import dlm
from dlm.configuration import Composed, Composer
from dlm.evaluation.runner import Models, Outcome, Ready, prepare
from dlm.evaluation.session import run_point
from dlm.models.language_model import LanguageModel

TASKS = ("waiting_line/copy", "waiting_line/shuffle", "puzzle/sudoku")
QUESTIONS, BATCH, ROUNDS = 300, 32, 7
RUNS = Path("runs")  # on the disk that results would go to


class Loaded(Models):
    """The model, loaded before the clock starts."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def get(self, parts: Composed, device: str | None = None) -> LanguageModel:
        """It, for every point."""
        return self.model


def main() -> None:
    """Measure the tasks named on the command line and print a table."""
    model, compose = dlm.load("tiny", device="cpu"), Composer("eval")
    console = Console()
    for task in sys.argv[1:] or TASKS:
        console.print(measured(model, compose, task))
    print(f"load of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def measured(model: LanguageModel, compose: Composer, task: str) -> Table:
    """The figures of a task; the first round of both warms up and is not counted."""
    outcomes: list[Outcome] = []

    def point(out: str) -> Ready:
        return prepare(compose([f"task={task}", f"task.limit={QUESTIONS}", f"batch_size={BATCH}", f"out={out}"]))

    plain = point("unused")
    chats = [instance.messages for instance in plain.instances()]
    settings: dict[str, Any] = {"max_new_tokens": plain.canvas, "batch_size": BATCH}

    def generate() -> tuple[float, float]:
        return clocked(lambda: dlm.generate(model, chats, sampler=plain.parts.sampler, **settings))

    def evaluate() -> tuple[float, float]:
        RUNS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=RUNS) as out:
            ready = point(out)
            return clocked(lambda: outcomes.append(run_point(ready, Loaded(model), quiet=True)))

    both: list[dict[str, tuple[float, float]]] = []
    for number in range(ROUNDS + 1):  # each goes first every other time
        acts = {"generate": generate, "eval": evaluate}
        both.append({name: acts[name]() for name in sorted(acts, reverse=bool(number % 2))})
    both = both[1:]
    forwards, own = outcomes[0].figures["forwards"], [outcome.outside or 0.0 for outcome in outcomes[1:]]
    title = f"{task}: {QUESTIONS} questions of {forwards:.2f} forwards, batches of {BATCH}, {ROUNDS} rounds"
    table = Table(title=title)
    for heading in ("", "generate, s", "eval, s", "more", "middle half"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, name in enumerate(("wall time", "CPU time")):
        times = {act: [each[act][kind] for each in both] for act in ("generate", "eval")}
        more = [e / g - 1 for g, e in zip(times["generate"], times["eval"], strict=True)]
        table.add_row(name, *(f"{statistics.median(times[act]):.2f}" for act in times), *spread(more))
    table.add_row("what eval itself counts", "", "", *spread(own))
    return table


def spread(shares: list[float]) -> tuple[str, str]:
    """The median, and the middle half."""
    low, middle, high = statistics.quantiles(shares, n=4)
    return f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}"


def clocked(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
