"""Files that appear complete or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path, sync: bool = True) -> Iterator[Path]:
    """Where to write what becomes the file at the end, complete or not at all; ``sync``: and has reached the disk."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:  # a full disk: nothing of it stays
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write the file so that it appears complete or not at all."""
    with whole(path, sync=False) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as CSV, whole; numbers keep all their digits."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_whole(path, table.getvalue())


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON, whole."""
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
