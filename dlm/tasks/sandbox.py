"""Runs a program that a model wrote, apart from everything else.

The interpreter's process runs as follows. A supervisor is started in a session of its own; it forks a judge's
process and the program's, watches the time, kills their process groups and every descendant when the judge is done
(Linux hands orphans back to the supervisor, even those with a session of their own), and dies with this process.

The judge alone holds the tests, and a secret that it sends after the last of them. It calls the program's function
through a pipe: arguments and results cross as numbers, texts and containers of them, everything else arrives as
something that equals nothing (:mod:`dlm.tasks.confined.values`). So the program has no tests to read, no object of
its own is ever compared, and no function that the judge uses is within its reach. It is confined no less.

What binds the program depends on the machine (:func:`level`):

``namespaces`` (Linux with user namespaces): every file system is read-only but for its folder, which lies in
memory and is bounded as a whole; there is no network; the kernel kills its processes together; it sees no process
outside. Together with ``seccomp`` it makes no process, opens no socket of any kind and signals nobody.

``filters`` (Linux 5.13 or newer with Landlock and seccomp, such as inside most containers): the same by the
kernel, except that the size of its files is bounded one by one.

``hook``: Python's audit hooks refuse sockets, processes, signals, ctypes, and writing outside the folder. That
stops accidents and careless code; a program written to escape can. macOS has this level only, and its kernel does
not keep to the memory limit.

All levels have the limits of :class:`Limits`, and the hook as well, because its messages are the clearest. Memory
and environment of this process are hidden while programs run (Linux). What stays open at every level: files can be
*read* as far as the user who runs this can, the file of the problems among them; and without tests a program that
is written to can say that it ran to its last line when it did not.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dlm.errors import SandboxError, SettingsError
from dlm.tasks.confined import kernel
from dlm.tasks.hidden import hidden

Status = Literal["passed", "failed", "timeout", "memory", "killed", "refused"]
Level = Literal["namespaces", "filters", "hook", "none"]
MEASURES = ("namespaces", "landlock", "seccomp", "hook")
TAIL = 2000  # characters of the program's stderr that are kept
PARALLEL = min(8, os.cpu_count() or 1)  # programs at once
START = 20.0  # seconds that starting an interpreter may take on a busy machine
_CHILD = "import sys; sys.path.insert(0, {!r}); from confined import child; del sys.path[0]; child.main()"


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of the clock on the wall.
        cpu_seconds: of processor time, all threads together. The smaller of the two: it does not depend on what else
            the machine does, so that a verdict does not either.
        memory_mb: of address space, the interpreter included (about 40).
        disk_mb: of files in its folder (per file where there are no namespaces).
        processes: threads; new processes are refused altogether. Bound by namespaces only, and not for root.
        files: that are open at once.
    """

    seconds: float = 15.0
    cpu_seconds: int = 5
    memory_mb: int = 1024
    disk_mb: int = 16
    processes: int = 32
    files: int = 64

    def __post_init__(self) -> None:
        for name, least in (
            ("seconds", 0.1), ("cpu_seconds", 1), ("memory_mb", 64), ("disk_mb", 1), ("processes", 1), ("files", 8),
        ):  # fmt: skip
            value = getattr(self, name)
            whole = name != "seconds"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
                kind = "a whole number" if whole else "a number"
                raise SettingsError(f"{name} must be {kind} of at least {least}, got {value!r}")


@dataclass(frozen=True)
class Check:
    """What a program has to do.

    Attributes:
        entry: the function of the program that is tested.
        source: defines ``check(candidate)``, which raises where the function is wrong.
        prompt: code that the tests may use beside it.
    """

    entry: str
    source: str
    prompt: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: ``passed``: it ran to its last line, and its tests to theirs; ``failed``: either raised, or left;
            ``timeout``: of the wall or of the processor; ``memory``: MemoryError; ``killed``: by a signal (a crash, or
            the kernel); ``refused``: it did not pass and had asked for what is forbidden.
        detail: the end of its stderr, or what was refused.
        measures: of :data:`MEASURES`, what was in force.
    """

    status: Status
    detail: str
    measures: tuple[str, ...]


def run_program(
    source: str, tests: Check | None = None, *, limits: Limits | None = None, without: tuple[str, ...] = ()
) -> Outcome:
    """Run a program in a fresh interpreter without site packages, in an empty folder, with nothing on stdin.

    How it is kept apart and judged, and what stays open, is said at the top of this file.

    Args:
        source: the program.
        tests: what its function has to do; None: the program need only run.
        limits: what it may use.
        without: measures to leave out, for tests of the others.

    Raises:
        SandboxError: there is no measure here (Windows), or the supervisor did not start: no statement about the
            program.
    """
    if os.name != "posix":
        raise SandboxError("generated programs are run on Linux and macOS only: use WSL or a container")
    limits = limits or Limits()
    token = secrets.token_hex(16)
    entry = tests.entry if tests else None
    known = {"tests": tests.source if tests else "", "prompt": tests.prompt if tests else ""}
    with tempfile.TemporaryDirectory(prefix="dlm-sandbox-", ignore_cleanup_errors=True) as folder, _hidden():
        reader, writer = os.pipe()
        asked = {
            **{key: value for key, value in asdict(limits).items() if not key.endswith("_mb")},
            "memory": limits.memory_mb << 20, "disk": limits.disk_mb << 20, "folder": os.path.realpath(folder),
            "answers": writer, "without": without,
        }  # fmt: skip
        try:
            process = _started(asked, {"source": source, "entry": entry}, {**known, "entry": entry, "token": token})
        except OSError as error:
            os.close(reader)
            raise SandboxError(f"the sandbox did not start: {error}") from error
        finally:
            os.close(writer)
        try:
            answers, errors = _listen(process, reader, time.monotonic() + limits.seconds + START)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(reader)
            assert process.stderr is not None
            process.stderr.close()
    return _outcome(answers.splitlines(), hidden(errors), token)


_hiding = threading.Lock()
_running = 0  # programs
_was_hidden = False


@contextmanager
def _hidden() -> Iterator[None]:
    """While programs run, nobody reads this process's environment and memory: keys stand there."""
    global _running, _was_hidden
    with _hiding, suppress(OSError):
        _running += 1
        if _running == 1:
            _was_hidden = kernel.hide()
    try:
        yield
    finally:
        with _hiding, suppress(OSError):
            _running -= 1
            if not _running and not _was_hidden:
                kernel.hide(False)


def _started(asked: dict[str, Any], program: dict[str, Any], judge: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The supervisor, with its settings in files: a pipe that nobody reads would stop this process."""
    folder = asked["folder"]
    # One hash seed: what a program does with sets is the same in every run.
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "TMPDIR": folder, "HOME": folder}
    with ExitStack() as files:
        numbers = {"program": _file(files, program), "judge": _file(files, judge)}
        settings = _file(files, {**asked, **numbers})
        return subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", "-c", _CHILD.format(str(Path(__file__).parent))],
            stdin=settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=(asked["answers"], *numbers.values()), cwd=folder, start_new_session=True, env=environment,
        )  # fmt: skip


def _file(files: ExitStack, values: dict[str, Any]) -> int:
    """A nameless file that holds values as JSON, ready to be read."""
    file = files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115
    json.dump(values, file)
    file.seek(0)
    return file.fileno()


def _listen(process: subprocess.Popen[bytes], reader: int, until: float) -> tuple[str, str]:
    """What came over the pipe, and the end of stderr. Neither grows with what the program writes."""
    assert process.stderr is not None
    kept = {reader: b"", process.stderr.fileno(): b""}
    with selectors.DefaultSelector() as selector:
        for number in kept:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < until:
            ready = selector.select(0.1)
            if not ready and process.poll() is not None:
                break  # somebody who outlived the supervisor holds the pipe
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fd)
                kept[key.fd] = _shortened(kept[key.fd] + chunk)
    answers, errors = (text.decode("utf-8", errors="replace") for text in kept.values())
    return answers, errors[-TAIL:].strip()


def _shortened(text: bytes) -> bytes:
    """Its beginning and its end: the supervisor's first word and its last are there."""
    return text if len(text) <= 8 * TAIL else text[: 4 * TAIL] + b"\n" + text[-4 * TAIL :]


def _outcome(answers: list[str], errors: str, token: str) -> Outcome:
    """Read the lines of the pipe; the first ``ready`` and the last ``ended`` are the supervisor's or its fork's."""
    said = [line.partition(" ")[::2] for line in answers]
    ready = next((rest for word, rest in said if word == "ready"), None)
    if ready is None:
        raise SandboxError(f"the sandbox did not start: {errors.splitlines()[-1] if errors else 'no word from it'}")
    measures = tuple(ready.split())
    kind, _, number = next((rest for word, rest in reversed(said) if word == "ended"), "signal 9").partition(" ")
    if ("passed", token) in said and (kind, number) == ("exit", "0"):
        return Outcome("passed", errors, measures)
    refused = list(dict.fromkeys(rest for word, rest in said if word == "refused"))
    if kind == "exit" and refused:
        return Outcome("refused", ", ".join(refused)[:TAIL], measures)
    if kind == "signal":
        return Outcome("killed", errors or f"signal {number}", measures)
    status: Status = "timeout" if kind == "timeout" else "memory" if kind == "memory" else "failed"
    return Outcome(status, errors, measures)


@cache
def level() -> Level:
    """The level of :func:`run_program` on this machine, found out by running a program once."""
    try:
        measures = run_program("pass", limits=Limits(cpu_seconds=5, seconds=START)).measures
    except SandboxError:
        return "none"
    return level_of(measures)


def confined_level(task: str) -> Level:
    """The level, for a task that runs programs. Raises SandboxError: there is none here."""
    if level() == "none":
        raise SandboxError(f"{task} runs generated programs, which cannot be confined here: use Linux or macOS")
    return level()


def level_of(measures: tuple[str, ...]) -> Level:
    """The level that a set of measures makes."""
    if "namespaces" in measures:
        return "namespaces"
    if {"landlock", "seccomp"} <= set(measures):
        return "filters"
    return "hook" if "hook" in measures else "none"
