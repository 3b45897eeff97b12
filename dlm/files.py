"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
