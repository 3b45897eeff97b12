"""Files that appear complete or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from dlm.errors import StorageError

LONGEST, DEEPEST = 200_000, 20  # characters, and brackets in brackets, of a YAML file
STANDARD_OUTPUT = "-"  # what stands for it where a file is named
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2, STANDARD_OUTPUT: 1}


@contextmanager
def whole(path: Path, sync: bool = True) -> Iterator[Path]:
    """Where to write what becomes the file at the end, complete or not at all; ``sync``: and has reached the disk.

    A symbolic link stays, and what it leads to is replaced; a file keeps its mode. What is there and is no regular file
    (a device, a pipe, a descriptor of this process) is opened and written at the end, never replaced.

    Raises:
        StorageError: the file cannot be written. Nothing of the new one stays.
    """
    place, special = _behind_links(path)
    folder = Path(tempfile.mkdtemp(prefix="dlm-")) if special else place.parent
    partial = folder / (place.name + ".partial")
    try:
        yield partial
        if special:
            with partial.open("rb") as file, _opened(place) as target:
                shutil.copyfileobj(file, target)
            return
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, partial)
        partial.replace(place)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
            if special:
                folder.rmdir()


def check_writable(path: Path) -> None:
    """Refuse a place that :func:`whole` could not write to, before any work is done for it; what is there stays as it
    is. Raises StorageError."""
    try:
        place, special = _behind_links(path)
        if place.is_dir() or not place.name:
            raise IsADirectoryError(errno.EISDIR, "is a folder: give a file name in it")
        if (number := _descriptor(place)) is not None:
            os.fstat(number)
        elif special:
            if not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        elif not place.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"the folder {place.parent} does not exist; make it first")
        else:
            partial = place.with_name(place.name + ".partial")
            there = partial.exists()
            partial.open("ab").close()
            if not there:
                partial.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _behind_links(path: Path) -> tuple[Path, bool]:
    """Where symbolic links lead to, and whether that is to be written in place."""
    for _ in range(40):  # as many as the system follows
        if _descriptor(path) is not None:
            return path, True
        if not path.is_symlink():
            return path, path.exists() and not path.is_file() and not path.is_dir()
        path = path.parent / path.readlink()
    raise _unwritable(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))


def _descriptor(path: Path) -> int | None:
    """The number of the descriptor of this process that a path names, as ``/dev/fd/3``; None: it names none."""
    found = re.fullmatch(rf"/dev/fd/(\d+)|/proc/(?:self|{os.getpid()})/fd/(\d+)", str(path))
    return int(found[1] or found[2]) if found else _STREAMS.get(str(path))


def _opened(place: Path) -> BinaryIO:
    number = _descriptor(place)
    if number is None:
        return place.open("wb")
    if number == 1:
        sys.stdout.flush()
    return os.fdopen(os.dup(number), "wb")


def _unwritable(path: Path, error: OSError) -> StorageError:
    said = error.strerror or str(error)
    advice = {errno.ENOSPC: ": make room, or name another place", errno.EDQUOT: ": make room, or name another place"}
    return StorageError(f"{path} cannot be written ({said}){advice.get(error.errno or 0, '')}")


def write_whole(path: Path, text: str) -> None:
    """Write the file so that it appears complete or not at all. Raises StorageError as :func:`whole` does."""
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


def read_yaml(path: Path, aliases: bool = False) -> Any:
    """What a YAML file of anybody's holds, as data. It is bounded before it is parsed: a few kilobytes of brackets take
    minutes, a few lines of ``aliases`` (``*NAME``) stand for gigabytes.

    Raises:
        ValueError: it is no YAML, no UTF-8, too long, nested too deeply, or has aliases; one line says which.
    """
    import yaml

    text = path.read_text(encoding="utf-8")
    depth = max(accumulate((sign in "[{") - (sign in "]}") for sign in text), default=0)
    if depth > DEEPEST or len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} characters, or nested deeper than {DEEPEST}")
    try:
        if not aliases and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it may have no aliases (*NAME)")
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("it is no YAML: " + " ".join(str(error).split())) from error
