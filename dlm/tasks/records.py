"""Records of benchmarks: from a file, a folder or the hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlm.errors import SettingsError

HUB = "hf:"
TABLES = {".parquet": "parquet", ".csv": "csv"}
LINES = (".jsonl", ".jsonl.gz")

Record = dict[str, Any]  # texts, and lists of texts where they were asked for


def read_records(
    source: str, fields: Sequence[str], split: str, key: str = "task.path", lists: Sequence[str] = ()
) -> list[Record]:
    """Every record, with the named fields alone.

    A last line that was cut off (an interrupted download) is passed over, and said on stderr. Numbers become texts.

    Args:
        source: ``FILE.jsonl``, ``FILE.jsonl.gz``, or what :func:`open_dataset` reads.
        fields: texts that every record must have.
        split: which part of a dataset is read.
        key: the setting that names the source, for messages.
        lists: lists of texts that every record must have beside them.

    Raises:
        SettingsError: there is no such source, a record cannot be read (its line is named), or there is none.
    """
    if source.endswith(LINES):
        rows: Iterator[tuple[str, Any]] = _lines(Path(source).expanduser(), key)
    else:
        rows = ((f"row {number}", row) for number, row in enumerate(open_dataset(source, split, key)))
    records = []
    for where, row in rows:
        record = _record(row if isinstance(row, dict) else {}, fields, lists)
        if missing := [name for name in (*fields, *lists) if not record[name]]:
            kind, has = (
                "text" if missing[0] in fields else "list of texts",
                ", ".join(map(str, row if isinstance(row, dict) else ()))[:200],
            )
            wanted = ", ".join([*fields, *lists])
            raise SettingsError(
                f"{source}, {where} has no {kind} under {missing[0]!r}: {key} needs {wanted}; it has {has or 'nothing'}"
            )
        records.append(record)
    if not records:
        raise SettingsError(f"{source} holds no record: set {key} to a file with some")
    return records


def _record(row: Mapping[str, Any], fields: Sequence[str], lists: Sequence[str]) -> Record:
    """The fields of a row; None where one is of another kind."""
    record: Record = {name: row.get(name) for name in (*fields, *lists)}
    for name in fields:
        if isinstance(record[name], int | float) and not isinstance(record[name], bool):
            record[name] = str(record[name])
        elif not isinstance(record[name], str):
            record[name] = None
    for name in lists:
        if not isinstance(record[name], list) or not all(isinstance(text, str) for text in record[name]):
            record[name] = None
    return record


def fingerprint(records: Sequence[Any]) -> str:
    """SHA-256 of records, the same for a file, a table and the hub."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def open_dataset(source: str, split: str, key: str) -> Any:
    """A dataset: ``FILE.parquet``, ``FILE.csv``, a folder written by ``Dataset.save_to_disk``, or
    ``hf:OWNER/NAME[:CONFIGURATION]`` of the Hugging Face hub.

    Raises:
        SettingsError: it cannot be read; the message says why.
    """
    try:
        import datasets  # slow to import, and needed for nothing else here
    except ImportError as error:
        raise SettingsError(f"{key}={source} needs the package datasets: pip install 'dlm[eval]'") from error
    path = Path(source).expanduser()
    kind = TABLES.get(path.suffix)
    try:
        if source.startswith(HUB):
            name, _, configuration = source.removeprefix(HUB).partition(":")
            return datasets.load_dataset(name, configuration or None, split=split)
        if kind is not None:
            return datasets.load_dataset(kind, data_files=str(path), split="train")
        found = datasets.load_from_disk(str(path))
        return found[split] if isinstance(found, datasets.DatasetDict) else found
    except Exception as error:  # the library raises a dozen kinds, from connection errors to its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        local = f"; without a network give {key}=FILE.jsonl" if source.startswith(HUB) else ""
        raise SettingsError(f"{key}={source} (split={split}) cannot be read as a dataset: {reason}{local}") from error


def _lines(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise SettingsError(f"there is no file {path}: set {key} to one")
    lines = [(number, line) for number, line in enumerate(_raw(path), start=1) if line.strip()]
    for number, line in lines:
        try:
            row = json.loads(line)  # bytes: a cut may fall inside a character
        except (ValueError, RecursionError) as error:
            if number != lines[-1][0] or number == 1:
                raise SettingsError(f"{path}, line {number} is not JSON ({error}): repair or remove it") from error
            print(f"dlm: {path}: line {number}, the last, is cut off and was passed over", file=sys.stderr)
            return
        yield f"line {number}", row


def _raw(path: Path) -> list[bytes]:
    if path.suffix != ".gz":
        return path.read_bytes().split(b"\n")
    lines: list[bytes] = []
    try:
        with gzip.open(path) as file:
            lines.extend(file)
    except EOFError:  # cut off inside the compressed data: the complete lines are there
        print(f"dlm: {path}: the compressed data is cut off; {len(lines)} lines are read", file=sys.stderr)
    except (gzip.BadGzipFile, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    return lines
