"""Traces on disk: one JSON line a row, in one file a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from dlm.errors import SettingsError
from dlm.files import whole
from dlm.trace.steps import Trace


class TraceWriter:
    """Appends traces to a file, each as one whole line.

    A last line that an interruption left unfinished is cut off when the file is opened. A line reaches the operating
    system before :meth:`append` returns, and the disk at :meth:`close`.

    Raises:
        OSError: the file cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        if (whole := _whole_lines(self.path)) < self._file.tell():
            self._file.truncate(whole)
            self._file.seek(whole)

    def append(self, trace: Trace, pieces: dict[int, str] | None = None, **about: Any) -> None:
        """Add the trace of a row.

        Args:
            trace: what was recorded.
            pieces: token id -> text (:func:`dlm.trace.pieces_of`), so that players need no tokenizer.
            about: what it belongs to, as plain values: ``instance_id``, ``seed``, ``task``, ``prompt``, ``score``.
        """
        whole = replace(trace, about={**trace.about, **about}, pieces={**trace.pieces, **(pieces or {})})
        self._file.write(_line(whole).encode())
        self._file.flush()

    def close(self) -> None:
        """Flush to the disk."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def save_traces(path: str | Path, traces: Sequence[Trace]) -> None:
    """Write one JSON line per row; the file appears whole or not at all."""
    with whole(Path(path)) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(map(_line, traces))


def load_traces(path: str | Path) -> list[Trace]:
    """Read what :func:`save_traces` or a :class:`TraceWriter` wrote; see :func:`read_traces`."""
    return list(read_traces(path))


def read_traces(path: str | Path) -> Iterator[Trace]:
    """The traces of a file, or of the ``traces*.jsonl`` of a run's folder, one after the other.

    Of several lines with the same ``instance_id`` and ``seed`` the first counts: a row that was decoded again after an
    interruption. An unfinished last line is passed over.

    Raises:
        SettingsError: there is no such file, or a line is no trace; the message names it.
    """
    seen: set[tuple[Any, Any]] = set()
    for where, line in _lines(Path(path)):
        try:
            trace = Trace.from_dict(json.loads(line, parse_constant=_no_number))
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SettingsError(f"{where} is no trace: give a file that trace=FILE or record= wrote") from error
        if "instance_id" in trace.about:
            key = (trace.about["instance_id"], trace.about.get("seed"))
            if key in seen:
                continue
            seen.add(key)
        yield trace


def count_traces(path: str | Path) -> int:
    """Lines of the file or folder; cheap, since nothing is read out of them."""
    return sum(1 for _ in _lines(Path(path)))


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a trace file or of a folder's, each with the words that name it."""
    files = sorted(path.glob("traces*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise SettingsError(f"{path} holds no traces: record some with dlm generate trace=FILE, or dlm eval record=...")
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.endswith(b"\n") and line.strip():
                    yield f"{file}, line {number}", line


def _whole_lines(path: Path) -> int:
    """Bytes up to the last line end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            first = max(0, end - 65536)
            file.seek(first)
            at = file.read(end - first).rfind(b"\n")
            if at >= 0:
                return first + at + 1
            end = first
    return 0


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _line(trace: Trace) -> str:
    return json.dumps(trace.as_dict(), ensure_ascii=False, separators=(",", ":")) + "\n"
