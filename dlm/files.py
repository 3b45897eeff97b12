"""Files that appear complete or not at all."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write the file so that it appears complete or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:  # a full disk: nothing of it stays
        partial.unlink(missing_ok=True)
        raise
