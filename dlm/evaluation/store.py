"""The folder of a point: what has been asked, what was answered, what failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dlm.errors import SettingsError, StorageError
from dlm.evaluation.lines import LineFile, Torn, read_lines
from dlm.evaluation.point import Point, canonical, differing
from dlm.evaluation.sample import Sample
from dlm.files import write_json
from dlm.tasks.hidden import hidden

Key = tuple[str, int]  # instance id, seed
KEYS = ("instance_id", "seed")
CONFIG, MANIFEST, METRICS = "config.json", "manifest.json", "metrics.json"
MESSAGE = 2000  # characters that are kept of an error
OUTPUT = 20_000  # and of an answer that no scorer could judge


@dataclass(frozen=True)
class Failure:
    """A question that got no answer: a line of ``failures.jsonl``."""

    # instance_id, index, seed: which question
    instance_id: str
    index: int
    seed: int
    attempt: int  # how often it has been asked by then
    kind: str  # the error's class
    message: str  # what it said
    rank: int = 0  # the process it happened in
    output_text: str | None = None  # the answer, where there is one and its scorer raised; None otherwise

    def line(self) -> str:
        """The failure as one line of JSON, its newline included."""
        values = {**asdict(self), "message": _kept(hidden(self.message), MESSAGE)}
        if self.output_text is not None:
            values["output_text"] = _kept(self.output_text, OUTPUT)
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"


def _kept(text: str, most: int) -> str:
    """The beginning of a text, without what UTF-8 has no bytes for."""
    return text[:most].encode(errors="replace").decode()


def shard(kind: str, rank: int) -> str:
    """The name of a process's file: ``samples.jsonl``, ``samples-rank1.jsonl``, ..."""
    return f"{kind}.jsonl" if rank == 0 else f"{kind}-rank{rank}.jsonl"


def shards_of(folder: Path, kind: str) -> list[Path]:
    """All files of a kind, that of the first process in front."""
    return sorted(folder.glob(f"{kind}*.jsonl"), key=lambda path: (len(path.name), path.name))


def read_samples(folder: Path) -> Iterator[Sample]:
    """The answers of a point, each once; a last line that is cut short is passed over. Raises SettingsError: a broken
    line before the last; file and line are named."""
    seen: set[Key] = set()
    for path in shards_of(folder, "samples"):
        for values in read_lines(path, KEYS):
            if isinstance(values, Torn) or (key := (values["instance_id"], values["seed"])) in seen:
                continue
            seen.add(key)
            try:
                yield Sample.from_dict(values).checked()
            except KeyError as error:
                raise SettingsError(f"{path}: the answer to {key[0]} has no {error}; take its line out") from error
            except TypeError as error:
                raise SettingsError(f"{path}: the answer to {key[0]} has {error}; take its line out") from error


def answered(folder: Path, torn: list[Torn] | None = None) -> set[Key]:
    """The questions that have an answer; files that end in a broken line are added to ``torn``."""
    return set(_keys(folder, "samples", torn))


def failed(folder: Path, torn: list[Torn] | None = None) -> Counter[Key]:
    """How often each question has failed."""
    return Counter(_keys(folder, "failures", torn))


def _keys(folder: Path, kind: str, torn: list[Torn] | None) -> Iterator[Key]:
    for path in shards_of(folder, kind):
        for values in read_lines(path, KEYS):
            if not isinstance(values, Torn):
                yield values["instance_id"], values["seed"]
            elif torn is not None:
                torn.append(values)


@dataclass(frozen=True)
class Found:
    """What a folder held when it was opened."""

    answered: set[Key]  # the questions that have an answer
    failed: Counter[Key]  # how often each question has failed
    notes: tuple[str, ...]  # sentences about what was mended


class Store:
    """The folder of a point, held by this process (one of several: each has files of its own).

    Raises:
        Busy: another run is writing here.
        SettingsError: the folder holds another configuration.
        StorageError: it cannot be written to.
    """

    def __init__(self, point: Point, folder: Path, rank: int = 0, world: int = 1) -> None:
        self.point, self.folder, self.rank = point, folder, rank
        check_folder(point, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder} cannot be made: {error.strerror}; give another out=") from error
        self.samples = LineFile(folder / shard("samples", rank))
        self._failures: LineFile | None = None
        self._others: list[LineFile] = []
        try:
            if rank == 0:  # files of processes that this run does not have: nobody may be writing them still
                own = {shard("samples", other) for other in range(world)}
                self._others = [LineFile(p) for p in shards_of(folder, "samples") if p.name not in own]
        except StorageError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def begin(self, overwrite: bool = False) -> Found:
        """Get the folder ready, by the first process alone: write the configuration, mend what a crash left."""
        if overwrite:
            for kind in ("samples", "failures", "traces"):
                for path in shards_of(self.folder, kind):
                    if path == self.samples.path:
                        self.samples.clear()
                    else:
                        path.unlink()
            for name in (METRICS, MANIFEST):
                (self.folder / name).unlink(missing_ok=True)
        if not read_json(self.folder / CONFIG):
            self.write(CONFIG, self.point.config)
        torn: list[Torn] = []
        there, failures = answered(self.folder, torn), failed(self.folder, torn)
        return Found(there, failures, tuple(each.mend() for each in torn))

    def fail(self, failure: Failure) -> None:
        """Keep a failure."""
        if self._failures is None:
            self._failures = LineFile(self.folder / shard("failures", self.rank))
        self._failures.append(failure.line())

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file whole."""
        try:
            write_json(self.folder / name, values)
        except OSError as error:
            raise StorageError(
                f"{self.folder / name} cannot be written ({error.strerror}): make room and run the same command again"
            ) from error

    def manifest(self) -> dict[str, Any]:
        """What earlier runs wrote of themselves; empty when there was none."""
        return read_json(self.folder / MANIFEST)

    def close(self) -> None:
        """Sync, and let the folder go."""
        files = [self.samples, *([self._failures] if self._failures is not None else []), *self._others]
        faults = []
        for file in files:
            try:
                file.close()
            except StorageError as error:
                faults.append(error)
        if faults:
            raise faults[0]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file, or nothing in it (a power cut leaves such files). Raises
    SettingsError: the file holds something else."""
    if not path.is_file() or not path.stat().st_size:
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not JSON ({error}): take the file out or give another out=") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} is no JSON object: take the file out or give another out=")
    return values


def check_folder(point: Point, folder: Path) -> None:
    """Refuse a folder that holds something else. Raises SettingsError: ``out`` is itself the folder of a point, or the
    folder is of another configuration; the keys that differ are named."""
    above = folder.parent.parent
    for place in (above, folder.parent):
        if (place / CONFIG).is_file() and (place / "samples.jsonl").is_file():
            raise SettingsError(
                f"out={above}: {place} holds the results of one configuration; give the folder above it"
            )
    there = read_json(folder / CONFIG)
    if not there:
        return
    try:
        other = Point(there).identity
    except (KeyError, TypeError, AttributeError, ValueError):
        other = there
    if keys := differing(json.loads(canonical(point.identity)), other):
        raise SettingsError(
            f"{folder} holds the results of another configuration; it differs in {', '.join(keys[:8])}: give another"
            " out=, or take the folder away"
        )
