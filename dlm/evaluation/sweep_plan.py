"""Sweeps: many points, shared by workers that may be killed at any moment.

A sweep is written down as a plan (one JSON file), and every worker reads the same plan. A worker goes through the
points in order and takes each one that nobody holds and that is not done: a point is held by a lock on its folder,
which the system gives back when its holder dies. What one worker leaves unfinished another takes up, sample by sample.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Any

from dlm.errors import StorageError
from dlm.files import write_json

WAIT = 1.0  # seconds between two looks at points that others hold


class State(StrEnum):
    """What became of a point at a worker's hands."""

    DONE = "done"  # all its samples are there
    BUSY = "busy"  # another process holds it
    FAILED = "failed"  # it has failures left, or could not be run; the message says why


@dataclass(frozen=True)
class Entry:
    """A point of a sweep, as it stands in the plan."""

    overrides: tuple[str, ...]  # what the command line would say to get it
    # hash, task, method, folder: of its :class:`~dlm.evaluation.point.Point`
    hash: str
    task: str
    method: str
    folder: str
    model: str  # one spelling of the model's settings: points of one model are neighbours in the plan
    asked: int  # answers that are wanted, instances times seeds
    done: int  # those that were there when the plan was made
    most: int  # forwards an answer takes at most
    wanted: str = ""  # one spelling of what is asked of the point: how many questions, with which seeds

    @property
    def key(self) -> str:
        """What tells it from the others: one point may be asked for twice, with other seeds, say."""
        return " ".join((self.hash, self.folder, self.wanted))

    @property
    def left(self) -> int:
        """Answers that are still wanted."""
        return max(0, self.asked - self.done)


@dataclass(frozen=True)
class Event:
    """A line of a worker's log."""

    key: str  # the entry
    state: State  # what became of it
    message: str = ""  # why it failed; empty otherwise
    answers: int = 0  # how many it has now
    seconds: float = 0.0  # how long it took


@dataclass(frozen=True)
class Cost:
    """What a sweep asks for."""

    # points, done: how many there are, and how many of them are finished
    points: int
    done: int
    answers: int  # those still wanted
    forwards: int  # what they take at most
    seconds: float | None  # an estimate from the finished points of the same folder; None where there are none


def cost_of(entries: Sequence[Entry], pace: Callable[[Entry], float | None] = lambda entry: None) -> Cost:
    """Sum up a plan. ``pace`` says how many seconds an answer of a point takes, where it is known."""
    open_ = [entry for entry in entries if entry.left]
    known = [(entry.left, seconds) for entry in open_ if (seconds := pace(entry)) is not None]
    answers, timed = sum(entry.left for entry in open_), sum(left for left, _ in known)
    # What is not known is taken to be as the mean of what is.
    seconds = sum(left * pace_ for left, pace_ in known) * answers / timed if timed else None
    return Cost(
        points=len(entries),
        done=len(entries) - len(open_),
        answers=answers,
        forwards=sum(entry.left * entry.most for entry in open_),
        seconds=0.0 if not open_ else seconds,
    )


def most_forwards(sampler: dict[str, Any], canvas: int) -> int:
    """Forwards an answer takes at most: by its fixed budget, or one for every position.

    A sampler with guidance counts two evaluations a forward.
    """
    each = sampler.get("tokens_per_step")
    most = sampler.get("steps") or (ceil(canvas / each) if isinstance(each, int) and each > 0 else canvas)
    return int(most) * (2 if sampler.get("guidance") else 1)


def recorded_pace(out: Path) -> Callable[[Entry], float | None]:
    """Seconds an answer took in the finished points of a folder: of the same task and method, else of the task."""
    found: dict[tuple[str, ...], list[float]] = {}
    for file in out.glob("*/*/metrics.json"):
        try:
            figures, config = json.loads(file.read_text()), json.loads((file.parent / "config.json").read_text())
            seconds, method = float(figures["seconds"]) / max(1, int(figures["n"])), config["sampler"]["choice"]
            task = config["task"]["name"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for key in ((task, method), (task,)):
            found.setdefault(key, []).append(seconds)

    def pace(entry: Entry) -> float | None:
        for key in ((entry.task, entry.method.split(" + ")[0]), (entry.task,)):
            if key in found:
                return sum(found[key]) / len(found[key])
        return None

    return pace


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Each point once, those of a model together, otherwise as they came."""
    unique = list({entry.key: entry for entry in entries}.values())
    models = list(dict.fromkeys(entry.model for entry in unique))
    return sorted(unique, key=lambda entry: models.index(entry.model))


def work(
    entries: Sequence[Entry], evaluate: Callable[[Entry], Event], take: Callable[[Event], None], wait: float = WAIT
) -> dict[str, Event]:
    """Go through the points until every one is done or has failed at these hands; what others hold is waited for.

    Args:
        entries: the plan.
        evaluate: runs a point, or says that another process holds it.
        take: told of every point that is done or has failed, once.
        wait: seconds between two looks at what others hold.

    Returns: the last event of every point, by key.
    """
    settled: dict[str, Event] = {}
    while open_ := [entry for entry in entries if entry.key not in settled]:
        for entry in open_:
            event = evaluate(entry)
            if event.state is not State.BUSY:
                settled[entry.key] = event
                take(event)
        if len(settled) < len(entries):
            time.sleep(wait)
    return settled


def save_plan(path: Path, entries: Sequence[Entry], settings: dict[str, Any]) -> None:
    """Write a plan for workers to read; the file appears whole or not at all."""
    write_json(path, {"settings": settings, "entries": [asdict(entry) for entry in entries]})


def load_plan(path: Path) -> tuple[list[Entry], dict[str, Any]]:
    """Read what :func:`save_plan` wrote."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    return [Entry(**{**entry, "overrides": tuple(entry["overrides"])}) for entry in whole["entries"]], whole["settings"]


class Log:
    """A worker's events, a line each, for the process that watches the sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Event) -> None:
        """Add a line; raises StorageError when it cannot be written."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(event)) + "\n")
        except OSError as error:
            said = f"{self.path} cannot be written ({error.strerror}): make room and run the same command again"
            raise StorageError(f"{event.message}; {said}" if event.message else said) from error

    @staticmethod
    def read(folder: Path) -> dict[str, Event]:
        """The events of all workers of a folder, by the entry's key; a finished point is not undone by a failure."""
        events: dict[str, Event] = {}
        for path in sorted(folder.glob("worker-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    values = json.loads(line)
                except ValueError:  # a line that is being written
                    continue
                event = Event(**{**values, "state": State(values["state"])})
                if events.get(event.key, event).state is not State.DONE or event.state is State.DONE:
                    events[event.key] = event
        return events
