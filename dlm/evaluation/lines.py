"""Files of JSON lines that survive: appended a whole line at a time, held by one process, mended after a crash."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm.errors import SettingsError, StorageError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]

SYNC_EVERY = 1.0  # seconds; what a power failure can cost at most


class Busy(StorageError):  # noqa: N818
    """Another process holds the file."""


class LineFile:
    """A file of lines that this process alone appends to.

    A line reaches the operating system in one write before :meth:`append` returns, so that a process that is killed
    loses nothing; it reaches the disk within about a second of the next line, and at :meth:`close`.

    Raises:
        Busy: another process holds the file.
        StorageError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:  # the second by file systems over a network
                os.close(self._file)
                raise Busy(f"another process is writing {path}: wait until it ends, or give another out=") from error
            except OSError:  # a file system without locks
                pass
        self._synced, self._dirty = time.monotonic(), False

    def append(self, line: str) -> None:
        """Add a line, its newline included. Raises StorageError: it cannot be written (a full disk). The file is as it
        was before."""
        data, before = line.encode(), os.fstat(self._file).st_size
        try:
            if os.write(self._file, data) != len(data):  # what is left of the disk took a part of it
                raise OSError(28, "No space left on device")
            self._dirty = True
            if time.monotonic() - self._synced >= SYNC_EVERY:
                self.sync()
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise StorageError(
                f"{self.path} cannot be written ({error.strerror}): make room and run the same command again; all that"
                " was written before is kept"
            ) from error

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self._dirty:
            os.fsync(self._file)
            self._dirty = False
        self._synced = time.monotonic()

    def clear(self) -> None:
        """Throw all lines away."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Sync, and let the file go."""
        if self._file < 0:
            return
        try:
            self.sync()
        except OSError as error:
            raise StorageError(f"{self.path} did not reach the disk: {error.strerror}") from error
        finally:
            os.close(self._file)
            self._file = -1


@dataclass(frozen=True)
class Torn:
    """The end of a file whose last line was cut off."""

    path: Path  # the file
    whole: int  # bytes of whole lines before it
    lost: int  # bytes of the rest

    def mend(self) -> str:
        """Cut the rest off (the caller holds the file); returns a sentence about it."""
        os.truncate(self.path, self.whole)
        return f"{self.path}: the last line was cut short ({self.lost} bytes) and is taken away; it will be made again"


def read_lines(path: Path, required: tuple[str, ...] = ()) -> Iterator[dict[str, Any] | Torn]:
    """The objects of a file of JSON lines; last of all a :class:`Torn` if the file does not end with a whole one.

    Args:
        path: the file; one that does not exist has no lines.
        required: keys that every object has.

    Raises:
        SettingsError: a line before the last is not an object with these keys; file and line are named.
    """
    if not path.is_file():
        return
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            fault = "is cut short" if not raw.endswith(b"\n") else ""
            try:
                values = json.loads(raw) if not fault else None
                if not fault and not (isinstance(values, dict) and all(key in values for key in required)):
                    fault = f"is no object with {', '.join(required)}" if required else "is no object"
                elif values is not None and any(not isinstance(values[key], str | int) for key in required):
                    fault = f"has no text or number as {' or '.join(required)}"
            except RecursionError:
                fault = "is nested too deep"
            except ValueError as error:
                fault = f"is not JSON ({error})"
            if not fault:
                yield values  # type: ignore[misc]
            elif position + len(raw) >= size:
                yield Torn(path, position, len(raw))
            else:
                raise SettingsError(
                    f"{path}, line {number} {fault}: take the line out, and its question will be asked again"
                )
            position += len(raw)
