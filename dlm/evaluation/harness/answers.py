"""What was decoded for the harness: one line a request, kept beside the harness's own response cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dlm.errors import SettingsError
from dlm.evaluation.harness.requests import Key
from dlm.evaluation.lines import LineFile, Torn, read_lines
from dlm.evaluation.point import canonical

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Counters:
    """The figures of one request."""

    forwards: int  # model evaluations; a guidance pair counts 2
    content_forwards: int  # those until the last kept token was fixed
    token_forwards: int  # positions pushed through the transformer
    # generated tokens that were kept: before the first end token and before the stop string; None where nothing was
    # generated (likelihoods)
    tokens: int | None
    seconds: float  # wall time of the row's steps, shared equally among the rows of a batch

    @property
    def tokens_per_forward(self) -> float:
        """Kept tokens per forward until the last of them was fixed; 0 where nothing was kept."""
        return (self.tokens or 0) / self.content_forwards if self.content_forwards else 0.0

    @classmethod
    def of(cls, line: dict[str, Any]) -> Counters:
        """Those of a line."""
        return cls(**{name: line[name] for name in FIGURES})


FIGURES = tuple(f.name for f in fields(Counters))


class AnswerFile:
    """Lines by request, appended and never rewritten: the truth for counters, which the response cache lacks.

    Every process writes a file of its own (``samples.jsonl``, ``samples-rank1.jsonl``, ...) and reads all of them; of
    lines with one key the first counts. A torn last line, which a killed process leaves, is cut off.

    Args:
        path: the file of the first process; None: nothing is written.
        rank: which process this is.

    Raises:
        SettingsError: a path that cannot be a file, or a file with other lines.
    """

    def __init__(self, path: Path | None, rank: int = 0) -> None:
        self.known: dict[Key, Counters] = {}
        self.rank = rank
        self.path = path if path is None or rank == 0 else path.with_name(f"{path.stem}-rank{rank}{path.suffix}")
        self._file: LineFile | None = None
        if path is None:
            return
        if path.is_dir():
            raise SettingsError(f"samples={path} is a folder: give a file name in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in (path, *sorted(path.parent.glob(f"{path.stem}-rank*{path.suffix}"))):
            for line in read_lines(file, ("request", "repeat", *FIGURES)):
                if not isinstance(line, Torn):
                    self.known.setdefault((line["request"], line["repeat"]), Counters.of(line))
                elif file == self.path:
                    line.mend()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the file while answers are added. Raises StorageError: it cannot be written, or another process writes
        it."""
        if self.path is None:
            yield
            return
        self._file = LineFile(self.path)
        try:
            yield
        finally:
            self._file.close()
            self._file = None

    def add(self, key: Key, counters: Counters, details: dict[str, Any]) -> None:
        """Keep a request's line; a process that is killed afterwards does not lose it."""
        if key in self.known:
            return
        self.known[key] = counters
        if self._file is not None:
            line = {"schema_version": SCHEMA_VERSION, "request": key[0], "repeat": key[1], **details}
            self._file.append(canonical({**line, **asdict(counters), "rank": self.rank}) + "\n")
