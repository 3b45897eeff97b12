"""Folders of results read into columns: many short lines of JSON, fast."""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm.errors import SettingsError
from dlm.evaluation.point import PARTS, Point
from dlm.evaluation.store import shards_of
from dlm.words import visible

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUMBERS = (
    "score", "forwards", "content_forwards", "token_forwards", "tokens", "canvas", "prompt_tokens", "seconds",
    "seconds_model", "accepted_drafts", "positions_cut",
)  # fmt: skip
MOST = 1e12  # of anything that is counted
NEEDED = ("instance_id", "seed", "task", "commit_step", *NUMBERS)


@dataclass(frozen=True)
class Columns:
    """The samples of one point, a column a figure; N samples of at most M positions."""

    instance: Ints  # [N] a number per question, the same in all points of one :class:`LoadedStore`
    seed: Ints  # [N]
    seed_place: Ints  # [N] a number per seed, the same in all points of one store
    # the columns of :data:`NUMBERS`, [N] each; their meanings are those of :class:`dlm.evaluation.sample.Sample`
    numbers: dict[str, Floats]
    strict: Floats  # [N] the strict score, NaN where there is none
    # [N, M] step that fixed a position; -1 where the sampler did not, and behind a shorter canvas
    commit_step: NDArray[np.int32]
    errors: Counter[str]  # how many samples have each error type
    parts: dict[str, float]  # mean of each further score
    ids: dict[tuple[str, str], int] = field(repr=False)  # the number of each (task, instance_id) of the store

    def __len__(self) -> int:
        return len(self.seed)

    @property
    def keys(self) -> Ints:
        """[N] one number per question and seed, the same in all points of one store."""
        return self.instance * (1 << 24) + self.seed_place

    @property
    def fingerprint(self) -> str:
        """A hash of the questions that were answered; the same wherever they are the same."""
        here = set(self.instance.tolist())
        named = sorted(f"{task} {name}" for (task, name), number in self.ids.items() if number in here)
        return hashlib.sha256("\n".join(named).encode()).hexdigest()[:12]

    def __getitem__(self, name: str) -> Floats:
        return self.numbers[name]

    def only(self, chosen: NDArray[np.bool_]) -> Columns:
        """Some of the samples; errors and parts stay those of all."""
        numbers = {name: values[chosen] for name, values in self.numbers.items()}
        return replace(
            self, instance=self.instance[chosen], seed=self.seed[chosen], seed_place=self.seed_place[chosen],
            numbers=numbers, strict=self.strict[chosen], commit_step=self.commit_step[chosen],
        )  # fmt: skip

    @property
    def steady(self) -> bool:
        """Whether all answers of one canvas took equally many forwards."""
        forwards = self.numbers["forwards"]
        _, first, kind = np.unique(self.numbers["canvas"], return_index=True, return_inverse=True)
        return bool(np.all(forwards == forwards[first][kind]))


@dataclass(frozen=True)
class Result:
    """One point as it lies on the disk."""

    point: Point  # its configuration
    folder: Path  # where it was found; of several, the first
    columns: Columns  # its samples
    # what the runs wrote down beside them, and ``asked`` of ``metrics.json``; empty: nothing was
    manifest: dict[str, Any]
    failed: int  # questions that failed and have no sample
    torn: tuple[str, ...]  # files whose last line was not whole

    @property
    def asked(self) -> int | None:
        """Samples the latest run was asked for; None where nothing says."""
        limit, seeds = self.manifest.get("limit"), self.manifest.get("seeds", [0])
        asked = limit * len(seeds) if isinstance(limit, int) and isinstance(seeds, list) else None
        if self.manifest.get("status") == "running":
            return asked
        # A task may have fewer questions than the limit; this is known once a run has ended.
        counted = self.manifest.get("asked")
        return counted if isinstance(counted, int) else asked

    @property
    def status(self) -> str:
        """``done``, ``failures`` (questions that failed have no answer) or ``unfinished``."""
        if self.manifest.get("status", "done") == "done" and not self.failed:
            short = self.asked is not None and len(self.columns) < self.asked
            return "unfinished" if short else "done"
        left = None if self.asked is None else self.asked - len(self.columns) - self.failed
        return "failures" if self.failed and (left is None or left <= 0) else "unfinished"


@dataclass
class LoadedStore:
    """All results under some folders, points in a settled order; equal points of several folders are one."""

    results: list[Result] = field(default_factory=list)
    questions: dict[tuple[str, str], int] = field(default_factory=dict)
    seeds: dict[int, int] = field(default_factory=dict)


def read_store(folders: Sequence[Path]) -> LoadedStore:
    """Read every point below ``folders``. Raises SettingsError: no such folder, no results in it, results of something
    else, a line that is no sample."""
    found: dict[str, list[tuple[Point, Path]]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"there is no folder {folder}: name one that `dlm eval out=DIR` wrote")
        here = [(point, path.parent) for path in sorted(folder.rglob("config.json")) if (point := _point(path))]
        if not here:
            raise SettingsError(f"no results in {folder}: name a folder that `dlm eval out=DIR` wrote")
        for point, path in here:
            places = found.setdefault(point.hash, [])
            if path.resolve() not in [other.resolve() for _, other in places]:
                places.append((point, path))
    store = LoadedStore()
    with _without_collector():
        for places in found.values():
            store.results.append(_result(places[0][0], [path for _, path in places], store))
    return store


@contextmanager
def _without_collector() -> Iterator[None]:
    """Parsed lines hold no cycles; looking for some would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _point(path: Path) -> Point | None:
    """The point a ``config.json`` describes; None for a file of something else. Raises SettingsError: samples lie
    beside a file that describes no point."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not all(isinstance(config.get(part), dict) for part in PARTS):
            raise ValueError("no point")
        point = Point(config)
        _ = point.task, config["sampler"]["choice"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        if next(path.parent.glob("samples*.jsonl"), None) is None:
            return None
        raise SettingsError(f"{path} does not describe a point of `dlm eval`: move the folder elsewhere") from error
    return point


def thin(line: bytes) -> bytes:
    """A line without its texts, ids and probabilities, which take most of the time and are not needed here.

    Quotes inside a text are escaped, so that the marks are found in no text; where a line is laid out otherwise it
    stays whole, or is no JSON any more and is read again whole.
    """
    text = line.find(b',"output_text":')
    score = line.find(b',"score":', text)
    sure = line.find(b',"confidence":[', score)
    end = line.find(b"]", sure)
    return line if min(text, score, sure, end) < 0 else line[:text] + line[score:sure] + line[end + 1 :]


def read_lines(path: Path, shorten: Callable[[bytes], bytes] = bytes) -> tuple[list[dict[str, Any]], bool]:
    """The objects of a JSONL file, and whether its last line was torn (it is passed over). ``shorten``: cuts what is
    not needed out of a line before it is parsed. Raises SettingsError: a line that is no JSON object; file and number
    are named."""
    try:
        pieces = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}): mend it or move its folder elsewhere"
        ) from error
    tail = pieces.pop()
    torn = False
    if tail.strip():  # a line without its end: a killed writer, or a file written by hand
        try:
            torn = not isinstance(json.loads(tail), dict)
        except (ValueError, RecursionError):
            torn = True
        if not torn:
            pieces.append(tail)
    try:
        rows = json.loads(b"[" + b",".join(map(shorten, pieces)) + b"]")
        if len(rows) == len(pieces) and all(type(row) is dict for row in rows):
            return rows, torn
    except (ValueError, RecursionError):
        pass
    rows = []
    for number, piece in enumerate(pieces, 1):
        try:
            row = json.loads(piece)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise SettingsError(f"{path} line {number} is not a JSON object: mend or delete the line")
        rows.append(row)
    return rows, torn


def _result(point: Point, folders: list[Path], store: LoadedStore) -> Result:
    """Merge the files of a point: by (instance, seed), the first line wins."""
    rows: list[dict[str, Any]] = []
    keys: set[tuple[str, int]] = set()
    torn = []
    for path in (file for folder in folders for file in shards_of(folder, "samples")):
        lines, cut = read_lines(path, thin)
        if cut:
            torn.append(str(path))
        try:
            for line in lines:
                key = (line["instance_id"], line["seed"])
                if key not in keys:
                    keys.add(key)
                    rows.append(line)
        except KeyError:
            raise _unlike_samples([path]) from None
        except TypeError:
            raise SettingsError(f"{path} holds a line whose instance_id or seed is a list or an object") from None
    manifest: dict[str, Any] = {}
    lost: set[tuple[Any, Any]] = set()
    for folder in reversed(folders):
        counted = {key: value for key, value in _object(folder / "metrics.json").items() if key == "asked"}
        manifest = counted | _object(folder / "manifest.json") or manifest
        for path in sorted(folder.glob("failures*.jsonl")):
            lost |= {(str(line.get("instance_id")), str(line.get("seed"))) for line in read_lines(path)[0]}
    failed = len(lost - {(str(instance), str(seed)) for instance, seed in keys})
    try:
        columns = _columns(rows, store)
    except KeyError:
        raise _unlike_samples([file for folder in folders for file in shards_of(folder, "samples")]) from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SettingsError(
            f"{folders[0]} holds a sample with a value of the wrong kind ({visible(str(error)):.200})"
        ) from error
    return Result(point, folders[0], columns, manifest, failed, tuple(torn))


def _unlike_samples(paths: list[Path]) -> SettingsError:
    """Names the first line that lacks something. To look at every line beforehand would take as long as to use it."""
    for path in paths:
        for number, line in enumerate(read_lines(path)[0], 1):
            for name in NEEDED:
                if name not in line:
                    return SettingsError(f"{path} line {number} has no {name!r}: it is not a sample of `dlm eval`")
    return SettingsError(f"{paths[0]} holds a line that is not a sample of `dlm eval`")


def _object(path: Path) -> dict[str, Any]:
    """A small JSON file; empty where there is none or it was not finished."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _columns(rows: list[dict[str, Any]], store: LoadedStore) -> Columns:
    """Lines to columns; new questions and seeds get the next numbers."""
    questions, seeds = store.questions, store.seeds
    steps = [row["commit_step"] for row in rows]
    width = max(map(len, steps), default=0)
    if any(len(step) != width for step in steps):
        steps = [step + [-1] * (width - len(step)) for step in steps]
    strict = [row.get("score_strict") for row in rows]
    for row in rows:
        if not isinstance(row["task"], str) or not isinstance(row["instance_id"], str) or type(row["seed"]) is not int:
            raise TypeError("instance_id and task are texts, seed is a whole number")
    parts: dict[str, list[float]] = {}
    for row in rows:
        for name, value in (row.get("parts") or {}).items():
            parts.setdefault(name, []).append(value)
    numbers = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in NUMBERS}
    for name, values in numbers.items():
        if not np.all((values >= 0) & (values <= (1 if name == "score" else MOST))):
            raise ValueError(f"a {name} that no answer can have")
    return Columns(
        instance=np.array(
            [questions.setdefault((row["task"], row["instance_id"]), len(questions)) for row in rows], dtype=np.int64
        ),
        seed=np.array([row["seed"] for row in rows], dtype=np.int64),
        seed_place=np.array([seeds.setdefault(row["seed"], len(seeds)) for row in rows], dtype=np.int64),
        numbers=numbers,
        strict=np.array([np.nan if value is None else value for value in strict], dtype=np.float64),
        commit_step=np.array(steps, dtype=np.int32).reshape(len(rows), width),
        errors=Counter(error for row in rows if (error := row.get("error_type")) is not None),
        parts={name: float(np.mean(values)) for name, values in sorted(parts.items())},
        ids=questions,
    )
