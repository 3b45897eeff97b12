"""``dlm eval`` over many configurations: ``-m``, ``grid=`` and ``--dry-run``."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dlm.commands.common import asks_help, split_texts, switch
from dlm.errors import SettingsError
from dlm.evaluation.grid import Choice, combined, load_grid, overrides_of
from dlm.evaluation.progress import progress_bar
from dlm.evaluation.sweep_plan import Cost, Entry, Event, Log, State, cost_of
from dlm.evaluation.sweeps import Sweep
from dlm.evaluation.workers import as_hydra, check_launcher, for_hydra
from dlm.overrides import choices, quoted
from dlm.words import counted

HELP = """dlm eval over many configurations: a sweep.

usage: dlm eval -m key=a,b,c ... [out=DIR]
       dlm eval grid=NAME|FILE [key=value ...] [out=DIR]

  -m                              keys may have several values: a,b,c or choice(a,b), range(START,STOP,STEP) without the
                                  STOP, of a group glob(t*,exclude=*x*); 1, 1.0 and 1e0 are one value of a number
  grid=NAME                       a grid of the package ({grids}) or a YAML file of yours; keys on the
                                  command line win over the grid's, and may have several values too
  'where=CONDITION'               only points for which it holds: 'where=blocks.length <= 16 and sampler != "random"'
  skip_refused=false              true: leave out points whose settings do not fit (sampler=topk knows no threshold);
                                  otherwise nothing is run before all points are in order
  --dry-run                       print how many points, answers and forwards there are, and run nothing
  workers=1                       processes that share the points; each loads a model once
  launcher=joblib                 who starts them: joblib (this machine, the one that workers=N takes by itself), slurm,
                                  local (submitit), ray. Their settings: launcher.KEY=VALUE (docs/cluster.md)
  json=false                      true: print the plan's figures as JSON

Every point keeps its answers in a folder of its own (out/TASK/SAMPLER-HASH), so a sweep that is killed goes on with the
same command, and a sweep with more points runs only the new ones. Workers hold a point by a lock that dies with them:
what one leaves unfinished another takes up.

A grid file is a mapping with any of
  set: {{key: value}}    product: {{key: [a, b]}}    zip: {{key: [a, b], key2: [c, d]}}
  union: [GRID, ...]   each: [GRID, ...]         where: [CONDITION, ...]

examples:
  dlm eval -m sampler=threshold,credit sampler.threshold=0.7,0.8,0.9 task=waiting_line/copy,puzzle/sudoku out=runs
  dlm eval grid=parallelbench model=llada-8b-instruct out=runs --dry-run
  dlm eval grid=tiny task.limit=20 workers=2 out=runs
  dlm eval grid=parallelbench model=dream-7b-instruct out=/shared/runs workers=8 launcher=slurm \\
      launcher.partition=gpu launcher.gpus_per_node=1 launcher.timeout_min=600
"""
OWN = ("grid", "where", "workers", "skip_refused")
SWITCHES = ("-m", "--multirun", "--dry-run", "--help-sweep")
MARKS = ("hydra.", "hydra/", "launcher=", "launcher.")
SHOWN = 5  # refusals that are printed


@dataclass(frozen=True)
class Order:
    """What a sweep's command line asks for."""

    choices: list[Choice]  # the points, as the command line would say them
    launcher: list[str]  # what goes to Hydra: the launcher and its settings
    workers: int  # how many go through the points at once
    dry: bool  # whether to say what there is to do, and no more
    skip_refused: bool  # whether points with settings that do not fit are left out; otherwise nothing is run
    as_json: bool  # whether to print figures as JSON


def asked_for(overrides: Sequence[str]) -> bool:
    """Whether a command line of ``dlm eval`` asks for a sweep."""
    asked = any(o in SWITCHES or o.partition("=")[0] in OWN or o.startswith(MARKS) for o in overrides)
    return asked and "--cfg" not in overrides


def run(overrides: list[str]) -> int:
    """Run a sweep; 1 when a point has failures, else 0."""
    if asks_help(overrides) or "--help-sweep" in overrides:
        print(HELP.format(grids=", ".join(choices("grid"))), end="")
        return 0
    order, console = _order(overrides), Console(file=sys.stdout)
    if order.launcher:
        check_launcher(order.launcher)
    with progress_bar() as bar:
        sweep = Sweep.of(bar.track(order.choices, description="reading the points"))
    for choice, reason in sweep.refused[:SHOWN]:
        print(f"dlm: refused: {join(overrides_of(choice))}: {reason}", file=sys.stderr)
    if len(sweep.refused) > SHOWN:
        print(f"dlm: ... and {len(sweep.refused) - SHOWN} more", file=sys.stderr)
    if not (order.skip_refused or order.dry):
        sweep.check_refused()
    out, cost = sweep.out, sweep.cost()
    if order.as_json:
        print(json.dumps({"points": cost.points, "done": cost.done, "answers": cost.answers,
                          "refused": len(sweep.refused), "forwards_at_most": cost.forwards,
                          "seconds": cost.seconds}))  # fmt: skip
    else:
        _print_cost(console, sweep.entries, cost)
    if order.dry:
        return 0
    if not cost.answers:
        console.print(f"All points are done; dlm report {quote(str(out))} shows them.", highlight=False, markup=False)
        return 0
    folder = sweep.begin(order.workers, order.launcher)
    with _watched(sweep.entries, folder):
        events = sweep.run(folder, order.workers, order.launcher)
    return _finish(console, sweep.entries, events, out)


def _order(overrides: Sequence[str]) -> Order:
    """Read the command line. Raises SettingsError: a value that cannot be read, an unknown grid."""
    texts, rest = split_texts([o for o in overrides if o not in SWITCHES], (*OWN, "json", "out"))
    rest = [as_hydra(o) for o in rest]
    launcher = [o for o in rest if for_hydra(o)]
    mine = [o for o in rest if not for_hydra(o)]
    mine += [f"out={quoted(texts['out'])}"] if "out" in texts else []
    grid = load_grid(texts["grid"]) if "grid" in texts else None
    choices = combined(mine, grid, [texts["where"]] if "where" in texts else [])
    workers = texts.get("workers", "1")
    if not workers.isdecimal() or int(workers) < 1:
        raise SettingsError(f"workers must be a whole number of at least 1, got {workers!r}")
    if int(workers) > 1 and not launcher:
        launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    return Order(
        choices=choices,
        launcher=launcher,
        workers=int(workers),
        dry="--dry-run" in overrides,
        skip_refused=switch(texts, "skip_refused"),
        as_json=switch(texts, "json"),
    )


@contextmanager
def _watched(entries: Sequence[Entry], folder: Path) -> Iterator[None]:
    """A progress bar over the points, fed by the workers' logs."""
    by_key = {entry.key: entry for entry in entries}
    seen, over = set[str](), threading.Event()
    with progress_bar(TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("points", total=len(entries))

        def look() -> None:
            for key, event in Log.read(folder).items():
                if key not in seen:
                    seen.add(key)
                    if bar.disable:
                        entry = by_key[key]
                        told = f"{event.state.value} {entry.task} {entry.method} ({event.seconds:.1f} s)"
                        print(f"dlm: {len(seen)}/{len(entries)} {told}", file=sys.stderr)
            bar.update(task, completed=len(seen))

        def watch() -> None:
            while not over.wait(1.0):
                look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            look()


def _print_cost(console: Console, entries: Sequence[Entry], cost: Cost) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("task", "methods"):
        table.add_column(heading, overflow="fold")
    for heading in ("points", "done", "answers left", "forwards at most"):
        table.add_column(heading, justify="right")
    for task in dict.fromkeys(entry.task for entry in entries):
        mine = [entry for entry in entries if entry.task == task]
        methods = Counter(entry.method for entry in mine)
        part = cost_of(mine)
        table.add_row(
            Text(task), Text(", ".join(f"{name} {n}" for name, n in methods.items())), str(part.points), str(part.done),
            f"{part.answers:,}", f"{part.forwards:,}",
        )  # fmt: skip
    console.print(table)
    time_ = "unknown before a point of this folder is done" if cost.seconds is None else f"about {cost.seconds:,.0f} s"
    points = counted(cost.points, "point")
    console.print(
        f"{points}, {cost.done} of them done; {cost.answers:,} answers left, at most {cost.forwards:,}"
        f" forwards; decoding time of one worker: {time_}",
        highlight=False,
    )


def _finish(console: Console, entries: Sequence[Entry], events: dict[str, Event], out: Path) -> int:
    """The last words: what is done, and what is not."""
    done = [e for e in events.values() if e.state is State.DONE]
    failed = [e for e in events.values() if e.state is State.FAILED]
    missing = len(entries) - len(done) - len(failed)
    for event in failed[:SHOWN]:
        entry = next(entry for entry in entries if entry.key == event.key)
        print(f"dlm: failed: {join(entry.overrides)}: {event.message}", file=sys.stderr)
    said = f"{len(done)} of {len(entries)} points done"
    said += f", {len(failed)} failed" if failed else ""
    said += f", {missing} not reached: run the same command again" if missing else ""
    console.print(f"{said}. dlm report {quote(str(out))} shows them.", highlight=False, markup=False)
    return 1 if failed or missing else 0
