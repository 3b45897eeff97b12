"""``dlm eval`` over many configurations: ``-m``, ``grid=`` and ``--dry-run``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dlm.commands.workers import check_launcher, launch
from dlm.configuration import Composer, config_dir, quoted
from dlm.errors import DlmError, SettingsError, StorageError
from dlm.evaluation.grid import Choice, expand, holds, load_grid, overrides_of
from dlm.evaluation.sweep import (
    Cost,
    Entry,
    Event,
    Log,
    State,
    cost_of,
    load_plan,
    most_forwards,
    ordered,
    recorded_pace,
    save_plan,
    work,
)

HELP = """dlm eval over many configurations: a sweep.

usage: dlm eval -m key=a,b,c ... [out=DIR]
       dlm eval grid=NAME|FILE [key=value ...] [out=DIR]

  -m                              keys may have several values: a,b,c or choice(a,b) or range(1,5) (Hydra's grammar)
  grid=NAME                       a grid of the package ({grids}) or a YAML file of yours; keys on the
                                  command line win over the grid's, and may have several values too
  'where=CONDITION'               only points for which it holds: 'where=blocks.length <= 16 and sampler != "random"'
  skip_refused=false              true: leave out points whose settings do not fit (sampler=topk knows no threshold);
                                  otherwise nothing is run before all points are in order
  --dry-run                       print how many points, answers and forwards there are, and run nothing
  workers=1                       processes that share the points; each loads a model once
  hydra/launcher=joblib           who starts them: joblib (this machine, the one that workers=N takes by itself),
                                  submitit_slurm, submitit_local, ray. Their settings: hydra.launcher.KEY=VALUE
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
  dlm eval grid=parallelbench model=dream-7b-instruct out=/shared/runs workers=8 hydra/launcher=submitit_slurm \\
      hydra.launcher.partition=gpu hydra.launcher.gpus_per_node=1 hydra.launcher.timeout_min=600
"""
OWN = ("grid", "where", "workers", "skip_refused")
SWITCHES = ("-m", "--multirun", "--dry-run", "--help-sweep")
SHOWN = 5  # refusals that are printed


@dataclass(frozen=True)
class Order:
    """What a sweep's command line asks for.

    Attributes:
        choices: the points, as the command line would say them.
        launcher: what goes to Hydra: the launcher and its settings.
        workers: how many go through the points at once.
        dry: whether to say what there is to do, and no more.
        skip_refused: whether points with settings that do not fit are left out; otherwise nothing is run.
        as_json: whether to print figures as JSON.
    """

    choices: list[Choice]
    launcher: list[str]
    workers: int
    dry: bool
    skip_refused: bool
    as_json: bool


def asked_for(overrides: Sequence[str]) -> bool:
    """Whether a command line of ``dlm eval`` asks for a sweep."""
    return any(o in SWITCHES or o.partition("=")[0] in OWN or o.startswith("hydra") for o in overrides)


def run(overrides: list[str]) -> int:
    """Run a sweep; 1 when a point has failures, else 0."""
    if any(o in ("-h", "--help", "--help-sweep") for o in overrides):
        print(HELP.format(grids=", ".join(sorted(p.stem for p in (config_dir() / "grid").glob("*.yaml")))), end="")
        return 0
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise SettingsError(
            "a sweep shares its points by workers=N: start it once, without accelerate launch or torchrun"
        )
    order, console = _order(overrides), Console(file=sys.stdout)
    if order.launcher:
        check_launcher(order.launcher)
    entries, refused = _resolved(order.choices)
    _say_refused(refused, len(order.choices), skipped=order.skip_refused or order.dry)
    if not entries:
        raise SettingsError("the sweep has no points: the grid is empty, or its conditions leave none")
    out = Path(entries[0].folder).parent.parent
    cost = cost_of(entries, recorded_pace(out))
    if order.as_json:
        print(json.dumps({"points": cost.points, "done": cost.done, "answers": cost.answers, "refused": len(refused),
                          "forwards_at_most": cost.forwards, "seconds": cost.seconds}))  # fmt: skip
    else:
        _print_cost(console, entries, cost)
    if order.dry:
        return 0
    if not cost.answers:
        console.print(f"All points are done; dlm report {quote(str(out))} shows them.", highlight=False, markup=False)
        return 0
    settings = {"workers": order.workers, "launcher": order.launcher, "process": os.getpid()}
    try:
        folder = _fresh(out / "sweeps")
        save_plan(folder / "plan.json", entries, settings)
    except OSError as error:
        said = f"{out / 'sweeps'} cannot be written ({error.strerror}): make room, or give another out="
        raise StorageError(said) from error
    with _watched(entries, folder):
        if order.workers == 1 and not order.launcher:
            go_through(folder / "plan.json", 0)
        else:
            launch(folder / "plan.json", order.workers, order.launcher)
    return _finish(console, entries, Log.read(folder), out)


def _fresh(above: Path) -> Path:
    """A folder that no other sweep has, named by the time."""
    name, number = time.strftime("%Y%m%d-%H%M%S"), 1
    while True:
        folder = above / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _order(overrides: Sequence[str]) -> Order:
    """Read the command line.

    Raises:
        SettingsError: a value that cannot be read, an unknown grid.
    """
    from dlm.commands.common import split_texts

    texts, rest = split_texts([o for o in overrides if o not in SWITCHES], (*OWN, "json", "out"))
    launcher = [o for o in rest if o.startswith("hydra")]
    mine = [o for o in rest if not o.startswith("hydra")]
    mine += [f"out={quoted(texts['out'])}"] if "out" in texts else []
    where = [texts["where"]] if "where" in texts else []
    points = expand(load_grid(texts["grid"], config_dir() / "grid")) if "grid" in texts else [{}]
    # What stands on the command line wins over the grid.
    merged = ({**point, **given} for given in _given(mine) for point in points)
    unique = {tuple(overrides_of(choice)): choice for choice in merged}.values()
    choices = [choice for choice in unique if all(holds(condition, _values(choice)) for condition in where)]
    workers = texts.get("workers", "1")
    if not workers.isdecimal() or int(workers) < 1:
        raise SettingsError(f"workers must be a whole number of at least 1, got {workers!r}")
    for key in ("skip_refused", "json"):
        if texts.get(key, "false") not in ("true", "false"):
            raise SettingsError(f"{key} must be true or false, got {texts[key]!r}")
    if int(workers) > 1 and not launcher:
        launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    return Order(
        choices=choices,
        launcher=launcher,
        workers=int(workers),
        dry="--dry-run" in overrides,
        skip_refused=texts.get("skip_refused") == "true",
        as_json=texts.get("json") == "true",
    )


def _given(overrides: Sequence[str]) -> list[Choice]:
    """The combinations of what a command line gives: ``a=1,2 b=3`` are two. Hydra's own grammar: choice(), range()."""
    import itertools

    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    axes: list[list[Choice]] = []
    parser = OverridesParser.create()
    for override in overrides:
        try:
            read = parser.parse_override(override)
        except HydraException as error:
            raise SettingsError(f"cannot read {override!r}: a setting is key=value or key=value,value") from error
        if read.is_sweep_override():
            strings = list(read.sweep_string_iterator())
            axes.append([{read.key_or_group: _Spelled(text)} for text in strings])
        else:
            axes.append([{override.partition("=")[0]: _Spelled(override.partition("=")[2])}])
    return [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*axes)]


class _Spelled(str):
    """A value as the command line spells it."""


def _values(choice: Choice) -> Choice:
    """A point with what the command line spells read as numbers and words, for conditions."""
    return {key: _value(str(value)) if isinstance(value, _Spelled) else value for key, value in choice.items()}


@cache
def _value(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _resolved(choices: Sequence[Choice]) -> tuple[list[Entry], list[tuple[Choice, str]]]:
    """The points of the choices, and those whose settings are refused, with the reason."""
    composer, entries, refused = Composer("eval"), [], []
    columns = (TextColumn("reading the points"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        for choice in bar.track(choices):
            overrides = overrides_of(choice)
            try:
                entries.append(_entry(overrides, composer))
            except SettingsError as error:
                refused.append((choice, str(error)))
    return ordered(entries), refused


def _entry(overrides: list[str], composer: Composer) -> Entry:
    from dlm.evaluation.point import canonical
    from dlm.evaluation.runner import prepare, progress_of

    ready = prepare(composer(overrides))
    point = ready.point
    asked, done = progress_of(ready)
    return Entry(
        overrides=tuple(overrides),
        hash=point.hash,
        task=point.task,
        method=point.method,
        folder=str(ready.folder),
        model=canonical(point.config["model"]),
        asked=asked,
        done=done,
        most=most_forwards(point.config["sampler"], ready.canvas),
        wanted=canonical([ready.wanted.limit, ready.wanted.seeds]),
    )


def go_through(plan: Path, worker: int) -> None:
    """What one worker does: all points of a plan, with one load of every model."""
    from dlm.evaluation.runner import Busy, Models, prepare, run_point

    entries, _ = load_plan(plan)
    folder, composer, models = plan.parent, Composer("eval"), Models()
    log = Log(folder / f"worker-{worker}.jsonl")

    def evaluate(entry: Entry) -> Event:
        told = Log.read(folder).get(entry.key)
        if told is not None:  # another worker has finished it, or found that it fails
            return told
        started = time.perf_counter()
        try:
            outcome = run_point(prepare(composer(entry.overrides)), models, quiet=True)
        except Busy:
            return Event(entry.key, State.BUSY)
        except (DlmError, OSError) as error:
            return Event(entry.key, State.FAILED, str(error), 0, time.perf_counter() - started)
        failed = f"{outcome.failures} failures, see {entry.folder}/failures.jsonl" if outcome.failures else ""
        state = State.FAILED if failed else State.DONE
        return Event(entry.key, state, failed, outcome.answers, time.perf_counter() - started)

    work(entries, evaluate, log.write)


@contextmanager
def _watched(entries: Sequence[Entry], folder: Path) -> Iterator[None]:
    """A progress bar over the points, fed by the workers' logs."""
    total, seen, over = len(entries), Counter[str](), threading.Event()
    columns = (TextColumn("points"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    by_key = {entry.key: entry for entry in entries}

    def look(say: Callable[[int], None]) -> None:
        for event in Log.read(folder).values():
            if not seen[event.key]:
                seen[event.key] += 1
                if not console.is_terminal:
                    entry = by_key[event.key]
                    line = (
                        f"{len(seen)}/{total} {event.state.value} {entry.task} {entry.method} ({event.seconds:.1f} s)"
                    )
                    print(f"dlm: {line}", file=sys.stderr)
        say(len(seen))

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def say(n: int) -> None:
            bar.update(task, completed=n)

        def watch() -> None:
            while not over.wait(1.0):
                look(say)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            look(say)


def _say_refused(refused: Sequence[tuple[Choice, str]], total: int, skipped: bool) -> None:
    """Print what is refused, and refuse to go on unless it may be skipped."""
    for choice, reason in refused[:SHOWN]:
        print(f"dlm: refused: {' '.join(overrides_of(choice))}: {reason}", file=sys.stderr)
    if len(refused) > SHOWN:
        print(f"dlm: ... and {len(refused) - SHOWN} more", file=sys.stderr)
    if refused and not skipped:
        raise SettingsError(
            f"{len(refused)} of {total} points are refused (see above), so nothing was run: correct them, or leave them"
            " out with skip_refused=true"
        )


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
    points = "1 point" if cost.points == 1 else f"{cost.points} points"
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
        print(f"dlm: failed: {' '.join(entry.overrides)}: {event.message}", file=sys.stderr)
    said = f"{len(done)} of {len(entries)} points done"
    said += f", {len(failed)} failed" if failed else ""
    said += f", {missing} not reached: run the same command again" if missing else ""
    console.print(f"{said}. dlm report {quote(str(out))} shows them.", highlight=False, markup=False)
    return 1 if failed or missing else 0
