"""A sweep as a whole: its points are resolved and checked, then worked off by one process or by several."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from shlex import join
from typing import Any

from dlm.configuration import Composer
from dlm.errors import DlmError, SettingsError, StorageError
from dlm.evaluation.grid import Choice, combined, load_grid, overrides_of
from dlm.evaluation.point import canonical
from dlm.evaluation.runner import Busy, Models, prepare, progress_of
from dlm.evaluation.session import run_point
from dlm.evaluation.shards import check_alone
from dlm.evaluation.store import METRICS, read_json
from dlm.evaluation.sweep_plan import (
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
from dlm.evaluation.workers import as_hydra, check_launcher, end_with_parent, for_hydra, launch
from dlm.overrides import config_dirs, own_folders, quoted, searching
from dlm.words import counted

PLAN = "plan.json"


@dataclass(frozen=True)
class Swept:
    """A point after a sweep.

    Attributes:
        entry: which one.
        state: what became of it; None: it was not reached.
        message: why it failed; empty otherwise.
        figures: what its ``metrics.json`` holds; empty: nothing was asked.
    """

    entry: Entry
    state: State | None
    message: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Points that are resolved and checked; nothing is loaded or written."""

    entries: list[Entry]  # in the order in which they are run
    refused: list[tuple[Choice, str]]  # those whose settings do not fit, with the reason

    @classmethod
    def of(cls, choices: Iterable[Choice]) -> Sweep:
        """Resolve points. Raises SettingsError: this is one of several processes of a launcher."""
        check_alone("a sweep shares its points by workers=N: start it once, without accelerate launch or torchrun")
        composer, entries, refused = Composer("eval"), [], []
        for choice in choices:
            overrides = overrides_of(choice)
            try:
                entries.append(_entry(overrides, composer))
            except SettingsError as error:
                refused.append((choice, str(error)))
        return cls(ordered(entries), refused)

    @property
    def out(self) -> Path:
        """Where results go. Raises SettingsError: there are no points."""
        if not self.entries:
            raise SettingsError("the sweep has no points: the grid is empty, or its conditions leave none")
        return Path(self.entries[0].folder).parent.parent

    def cost(self) -> Cost:
        """What it asks for."""
        return cost_of(self.entries, recorded_pace(self.out))

    def check_refused(self) -> None:
        """Refuse to go on where a point is refused. Raises SettingsError."""
        if self.refused:
            (choice, reason), n = self.refused[0], len(self.refused)
            raise SettingsError(
                f"{n} of {n + len(self.entries)} points are refused, so nothing was run: correct them, or leave them"
                f" out with skip_refused=true; the first is {join(overrides_of(choice))} ({reason})"
            )

    def begin(self, workers: int, launcher: Sequence[str]) -> Path:
        """Write the plan; returns its folder, which no other sweep has. Raises StorageError: it cannot be written."""
        above, name = self.out / "sweeps", time.strftime("%Y%m%d-%H%M%S")
        _clear(above, {entry.key for entry in self.entries})
        try:
            for number in count(1):
                folder = above / (name if number == 1 else f"{name}-{number}")
                with suppress(FileExistsError):
                    folder.mkdir(parents=True)
                    break
            settings = {"workers": workers, "launcher": list(launcher), "process": os.getpid()}
            settings["host"] = socket.gethostname()
            settings["folders"] = [str(folder) for folder in config_dirs()[1:]]
            save_plan(folder / PLAN, self.entries, settings)
        except OSError as error:
            said = f"{above} cannot be written ({error.strerror}): make room, or give another out="
            raise StorageError(said) from error
        return folder

    def run(self, folder: Path, workers: int = 1, launcher: Sequence[str] = ()) -> dict[str, Event]:
        """Work the plan of a folder off; returns what became of the points, by key. Raises StorageError: a worker was
        ended from outside; what was answered is kept."""
        if workers == 1 and not launcher:
            go_through(folder / PLAN, 0)
        else:
            launch(folder / PLAN, workers, launcher, run_worker)
        return Log.read(folder)


def _clear(above: Path, keys: set[str]) -> None:
    """Take away what earlier attempts at the same points left whose processes of this machine have ended."""
    for plan in above.glob(f"*/{PLAN}"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            entries, settings = load_plan(plan)
            elsewhere = any("launcher=" in word and not word.endswith("=joblib") for word in settings["launcher"])
            if elsewhere or settings["host"] != socket.gethostname() or {entry.key for entry in entries} != keys:
                continue
            try:
                os.kill(int(settings["process"]), 0)
            except ProcessLookupError:
                shutil.rmtree(plan.parent)


def sweep(
    overrides: Sequence[str] = (),
    *,
    grid: str | Mapping[str, Any] | None = None,
    where: Sequence[str] = (),
    out: str | Path = "runs",
    workers: int = 1,
    skip_refused: bool = False,
) -> list[Swept]:
    """Run many configurations, as ``dlm eval -m`` does; what is done already is not done again.

    Args:
        overrides: ``key=value`` or ``key=value,value``, as on the command line, ``launcher=`` included.
        grid: the name or the file of a grid, or a grid itself.
        where: only points for which all of these hold.
        out: results are kept in ``out/<task>/<sampler>-<hash>``.
        workers: processes that share the points.
        skip_refused: leave out points whose settings do not fit.

    Raises:
        SettingsError: what cannot be read; a point whose settings do not fit; no point at all.
        StorageError: the folder cannot be written to, or a worker was ended from outside.
    """
    folders, rest = own_folders(overrides)
    with searching(folders):
        return _swept(rest, grid, where, out, workers, skip_refused)


def _swept(
    overrides: Sequence[str], grid: Any, where: Sequence[str], out: str | Path, workers: int, skip: bool
) -> list[Swept]:
    overrides = [as_hydra(o) for o in overrides]
    launcher = [o for o in overrides if for_hydra(o)]
    if launcher:
        check_launcher(launcher)
    asked = [o for o in overrides if o not in launcher] + [f"out={quoted(str(out))}"]
    node = load_grid(grid) if isinstance(grid, str) else grid
    found = Sweep.of(combined(asked, node, where))
    if not skip:
        found.check_refused()
    events = found.run(found.begin(workers, launcher), workers, launcher) if found.cost().answers else {}
    swept = []
    for entry in found.entries:
        event, there = events.get(entry.key), None if entry.left else State.DONE
        state, message = (there, "") if event is None else (event.state, event.message)
        swept.append(Swept(entry, state, message, read_json(Path(entry.folder) / METRICS)))
    return swept


def _entry(overrides: list[str], composer: Composer) -> Entry:
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
    entries, settings = load_plan(plan)
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
        failed = (
            f"{counted(outcome.failures, 'failure')}, see {entry.folder}/failures.jsonl" if outcome.failures else ""
        )
        state = State.FAILED if failed else State.DONE
        return Event(entry.key, state, failed, outcome.answers, time.perf_counter() - started)

    with searching(settings.get("folders", [])):
        work(entries, evaluate, log.write)


def run_worker(config: Any) -> None:
    """A worker, as a Hydra job."""
    plan = Path(config.plan)
    if os.getppid() == load_plan(plan)[1].get("process"):
        end_with_parent()
    go_through(plan, int(config.worker))
