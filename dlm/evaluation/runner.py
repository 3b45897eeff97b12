"""One point: what is still to be asked is asked, judged and kept.

:func:`prepare` reads a configuration and checks it, without loading anything; ``session.run_point`` does the rest. A
point that is done loads nothing; one that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.building import build, role_of
from dlm.configuration import Composed, check_choice, check_counts, check_switches, parts_of, settled
from dlm.errors import SettingsError
from dlm.evaluation import store as files
from dlm.evaluation.asking import FORMS
from dlm.evaluation.identity import EVALUATION_KEYS, Questions, point_config
from dlm.evaluation.lines import Busy
from dlm.evaluation.point import Point, canonical
from dlm.evaluation.tracking import check_tracker
from dlm.overrides import choices
from dlm.tasks.base import Instance, Task
from dlm.tasks.checks import checked_instance, checked_task

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlm.models.language_model import LanguageModel

__all__ = ["Busy", "Models", "Outcome", "Ready", "Wanted", "prepare", "progress_of"]

DEFAULT_LIMIT = 100
MOST_QUESTIONS = 1_000_000  # of one task: a plan makes them all


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside the point itself; nothing of it changes an answer."""

    limit: int  # questions of the task
    seeds: tuple[int, ...]  # each question is asked once with every one of them
    out: Path  # results go to ``out/<task>/<sampler>-<hash>``
    batch_size: int = 32  # most rows decoded together
    retries: int = 2  # how often later runs ask a question again that failed
    record: tuple[str, ...] = ()  # what ``traces.jsonl`` keeps; empty: there is none
    overwrite: bool = False  # begin again
    tracker: str | None = None  # what a finished point is told to


@dataclass(frozen=True)
class Ready:
    """A point that is resolved and checked; no model is loaded."""

    point: Point  # the configuration and its identity
    questions: Questions  # the task, opened, and its instances
    parts: Composed  # sampler, cache, drafter, and the way to the model
    form: str  # ``auto``, ``chat``, ``text``, ``one_turn`` or ``infill``
    canvas: int  # positions to fill; of an infill, the task's own figure
    wanted: Wanted  # how much of it, and where to

    @property
    def folder(self) -> Path:
        """Where its results are kept."""
        return self.point.folder(self.wanted.out)

    def instances(self) -> list[Instance]:
        """The questions, each with an id of its own."""
        return self.questions.first(self.wanted.limit)

    def asked(self) -> dict[files.Key, tuple[int, Instance]]:
        """Every question with every seed: its key, its place in the task, and the instance; seed by seed."""
        listed = self.instances()
        return {(one.instance_id, seed): (i, one) for seed in self.wanted.seeds for i, one in enumerate(listed)}


@dataclass(frozen=True)
class Outcome:
    """What became of a point."""

    point: Point  # which one
    folder: Path  # where its results are
    asked: int  # answers that were wanted
    answers: int  # those of them that are there now
    decoded: int  # those that this run made
    failures: int  # asked and without an answer
    given_up: int  # those of them that failed too often to be asked again
    figures: dict[str, Any]  # what ``metrics.json`` holds; empty in processes other than the first
    # seconds of this run beside decoding / seconds of decoding; None when nothing was decoded
    outside: float | None = None
    notes: tuple[str, ...] = ()  # sentences for the user
    metric: str = ""  # what the task's score measures, in a few words


class Models:
    """The model that was used last, so that one process loads it once for all its points."""

    def __init__(self) -> None:
        self._held: dict[str, LanguageModel] = {}

    def get(self, parts: Composed, device: str | None = None) -> LanguageModel:
        """The model of a configuration; ``device`` is where it goes unless the configuration says so."""
        config = parts.model_config
        if device is not None and config.get("device") is None and config.get("device_map") is None:
            config["device"] = device
        runtime = {name: True for name, on in parts.config.get("runtime", {}).items() if on}
        key = canonical([config, runtime])
        if key not in self._held:
            self._held.clear()  # two large models would not fit
            self._held[key] = replace(parts, config={**parts.config, "model": config}).load_model()
        return self._held[key]


def prepare(config: DictConfig | dict[str, Any]) -> Ready:
    """Check a composed ``eval`` configuration and build its parts; nothing is loaded or written. ``config``: of
    :func:`dlm.configuration.compose_config` with ``chosen``, or of a Hydra application. Raises SettingsError: an
    unknown task or option, a value out of range, a task without instances."""
    if config.get("task") is None:
        raise SettingsError(f"task is not chosen: add task=NAME, one of {', '.join(choices('task'))}")
    plain = settled(config)
    chosen = plain.get("choices") or _hydra_choices()
    form = plain["task"].get("form", "auto")
    check_choice("task.form", form, FORMS)
    questions = _open(_own(plain["task"], chosen.get("task")))
    task = questions.task
    asked_for = plain["max_new_tokens"]
    if form == "infill":
        if asked_for is not None:
            raise SettingsError("task.form=infill fills the slots of a template: leave max_new_tokens out")
        if checked_instance(task, 0).template is None:
            raise SettingsError(f"{task.name} has no infill form: take task.form=auto")
    elif asked_for is not None:
        check_counts(plain, "max_new_tokens")
    canvas = int(asked_for or task.canvas)
    wanted = _wanted(plain, task)
    parts = parts_of({**plain, "max_new_tokens": canvas})
    point = Point(point_config(plain, chosen, task, None if form == "infill" else canvas))
    return Ready(point, questions, parts, form, canvas, wanted)


def progress_of(ready: Ready) -> tuple[int, int]:
    """How many answers a point asks for, and how many of them are there."""
    asked = len(ready.instances()) * len(ready.wanted.seeds)
    if not ready.folder.is_dir() or ready.wanted.overwrite:
        return asked, 0
    return asked, len(files.answered(ready.folder) & ready.asked().keys())


@dataclass(frozen=True)
class Pending:
    """What is left of a point, as the first process found it."""

    first: bool  # whether there is no answer yet
    left: tuple[tuple[int, int, int], ...]  # seed, place in the task, and attempt of every question to ask
    given_up: int  # questions that have failed too often
    notes: tuple[str, ...]  # sentences for the user


def _own(node: Mapping[str, Any], choice: Any) -> Mapping[str, Any]:
    """A task's node; one of the user's own is not given the name of the choice that it stands in for."""
    inherited = node.get("_target_") != "dlm.tasks.open" and node.get("name") == choice
    return {key: value for key, value in node.items() if not (inherited and key == "name")}


def _open(node: Mapping[str, Any]) -> Questions:
    return _opened(canonical({key: value for key, value in node.items() if key not in EVALUATION_KEYS}))


@lru_cache(maxsize=64)
def _opened(node: str) -> Questions:
    """Kept, because a sweep opens the same task for many points."""
    return Questions(checked_task(build(json.loads(node), role_of("task"), "task")))


def _wanted(plain: Mapping[str, Any], task: Task) -> Wanted:
    check_counts(plain, "batch_size")
    check_counts(plain, "retries", least=0)
    check_switches(plain, "overwrite")
    seeds = [plain["seed"]] if plain.get("seeds") is None else plain["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise SettingsError(f"seeds is a list of whole numbers, as seeds=[0,1,2], got {seeds!r}")
    if not isinstance(plain["out"], str) or not plain["out"]:
        raise SettingsError(f"out must be a folder, got {plain['out']!r}")
    return Wanted(
        limit=_limit(plain["task"].get("limit", DEFAULT_LIMIT), task),
        seeds=tuple(dict.fromkeys(seeds)),
        out=Path(plain["out"]).expanduser(),
        batch_size=plain["batch_size"],
        retries=plain["retries"],
        record=_recorded(plain.get("record")),
        overwrite=plain["overwrite"],
        tracker=check_tracker(plain.get("tracker")),
    )


def _limit(asked: Any, task: Task) -> int:
    if asked is not None:
        check_counts({"task.limit": asked}, "task.limit")
    elif task.size is None:
        raise SettingsError(f"{task.name} has no end: give task.limit=N")
    limit = min(size for size in (asked, task.size) if size is not None)
    if limit > MOST_QUESTIONS:
        raise SettingsError(f"task.limit={asked} is more questions than anybody waits for: at most {MOST_QUESTIONS}")
    if limit < 1:
        raise SettingsError(f"{task.name} has no instances: give a task, or a file of one, that has some")
    return int(limit)


def _recorded(record: Any) -> tuple[str, ...]:
    from dlm.trace import Recorder

    wanted = [record] if isinstance(record, str) else record or []
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise SettingsError(f"record is a name or a list of names, got {record!r}")
    Recorder(wanted)
    return tuple(wanted)


def _hydra_choices() -> dict[str, Any]:
    """What a Hydra application's groups were set to."""
    from hydra.core.hydra_config import HydraConfig

    return dict(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else {}
