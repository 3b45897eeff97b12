"""Scores and costs of a setting on chosen questions: from the store, or by asking what is not there yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm.choices import chosen
from dlm.configuration import Composer
from dlm.errors import DlmError, SettingsError, StorageError
from dlm.evaluation import store as files
from dlm.evaluation.identity import Questions
from dlm.evaluation.lines import read_lines
from dlm.evaluation.runner import Models, Ready, prepare
from dlm.evaluation.session import run_point
from dlm.overrides import quoted
from dlm.tasks.base import Instance, Stream

Floats = NDArray[np.float64]
Place = tuple[int, int]  # a task, and a question of it

COSTS = {"forwards": "forwards", "positions": "token_forwards", "seconds": "seconds"}  # as :class:`Sample` calls them


class Unanswered(SettingsError):  # noqa: N818
    """A setting left a question without an answer."""


@dataclass(frozen=True)
class Portion(Ready):
    """A point of which some questions are asked."""

    places: tuple[int, ...] = ()

    def asked(self) -> dict[files.Key, tuple[int, Instance]]:
        """Those questions alone."""
        listed = self.instances()
        return {(listed[i].instance_id, seed): (i, listed[i]) for seed in self.wanted.seeds for i in self.places}


@dataclass(frozen=True)
class Asked:
    """The questions in the order in which they are asked; the choosing part comes first.

    Every one is of a task drawn at random, so that the expected loss is the mean over tasks. A file's questions are put
    into a random order, each once; a generator's are random already.
    """

    places: tuple[Place, ...]  # as many as there are, or as were wanted
    limits: tuple[int, ...]  # questions of each task, up to the last one that is asked

    @classmethod
    def of(cls, tasks: Sequence[Questions], wanted: int, seed: int) -> Asked:
        """The first ``wanted`` ones; fewer where a task has no more."""
        stream, places, taken = Stream("dlm tune", seed), list[Place](), [0] * len(tasks)
        sizes = [(one.task.name, one.task.size) for one in tasks]
        orders = [Stream("dlm tune", seed, name).shuffled(range(n)) if n else None for name, n in sizes]
        for one, order in zip(tasks, orders, strict=True):
            if order is not None:  # two that are the same would count as two that know nothing of each other
                firsts = {one.task.instance(i).instance_id: i for i in sorted(order, reverse=True)}
                order[:] = [i for i in order if firsts[one.task.instance(i).instance_id] == i]
        while len(places) < wanted:
            task = stream.below(len(tasks))
            order = orders[task]
            if order is not None and taken[task] == len(order):
                break
            places.append((task, taken[task] if order is None else order[taken[task]]))
            taken[task] += 1
        limits = [max((i + 1 for at, i in places if at == task), default=1) for task in range(len(tasks))]
        return cls(tuple(places), tuple(limits))

    def hash(self, tasks: Sequence[Questions], first: int, last: int) -> str:
        """What tells these questions from others."""
        drawn = [q.first(limit) for q, limit in zip(tasks, self.limits, strict=True)]
        names = [[tasks[task].task.name, drawn[task][i].instance_id] for task, i in self.places[first:last]]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()


@dataclass
class Answers:
    """Asks settings; every answer is kept in the folder of its point, as ``dlm eval`` keeps it."""

    base: Sequence[str]  # overrides that all settings share
    tasks: Sequence[Sequence[str]]  # those of each task, ``task=NAME`` first
    cost: str  # what is to be least: a key of COSTS
    out: Path  # the store
    asked: Asked | None = None  # the questions; None: not drawn yet
    models: Models = field(default_factory=Models)
    decoded: int = 0  # answers that this run made
    _composer: Composer = field(default_factory=lambda: Composer("eval"))

    @property
    def most(self) -> int:
        """How many questions there are."""
        return len(self.asked.places) if self.asked is not None else 0

    def published(self, sampler: str) -> Mapping[str, Any]:
        """The settings of a sampler, as its configuration has them."""
        node: Mapping[str, Any] = self._composer([*self.base, *chosen("sampler", sampler)])["sampler"]
        return node

    def points(self, overrides: Sequence[str]) -> list[Ready]:
        """A setting on every task. Raises SettingsError: its parts do not go together."""
        limits = self.asked.limits if self.asked is not None else [1] * len(self.tasks)
        shared = [*self.base, *overrides, f"out={quoted(str(self.out))}"]
        asked = zip(self.tasks, limits, strict=True)
        return [prepare(self._composer([*shared, *task, f"task.limit={limit}"])) for task, limit in asked]

    def get(self, overrides: Sequence[str], first: int, last: int) -> tuple[Floats, Floats]:
        """[N] scores and [N] costs of a setting on the questions from ``first`` up to ``last``.

        Raises:
            SettingsError: the setting does not fit the tasks or the model.
            Unanswered: a question got no answer.
            StorageError: the disk is full, or another run holds the folder.
        """
        assert self.asked is not None
        scores, costs = np.zeros(last - first), np.zeros(last - first)
        for task, ready in enumerate(self.points(overrides)):
            where = [(n, i) for n, (at, i) in enumerate(self.asked.places[first:last]) if at == task]
            if not where:
                continue
            portion = Portion(**{**vars(ready), "places": tuple(i for _, i in where)})
            try:
                outcome = run_point(portion, self.models, quiet=True)
            except (SettingsError, StorageError):
                raise
            except DlmError as error:
                raise Unanswered(str(error)) from error
            self.decoded += outcome.decoded
            if outcome.failures:
                lines = (line for path in files.shards_of(outcome.folder, "failures") for line in read_lines(path))
                said = next((str(line["message"]) for line in lines if isinstance(line, dict)), "")
                raise Unanswered(f"{outcome.failures} questions of {ready.point.task} got no answer: {said}")
            there = {s.key: s for s in files.read_samples(outcome.folder)}
            listed, seed = ready.instances(), ready.wanted.seeds[0]
            for n, i in where:
                sample = there[listed[i].instance_id, seed]
                scores[n], costs[n] = sample.score, getattr(sample, COSTS[self.cost])
        return scores, costs
