"""Files that appear complete or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write the file so that it appears complete or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:  # a full disk: nothing of it stays
        partial.unlink(missing_ok=True)
        raise


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
