"""The sandboxed side: a supervisor, the process that runs the program, and the one that runs its tests.

Talks to :mod:`dlm.tasks.sandbox`: settings as JSON on stdin; what the program is and what its judge knows in a file
each, which the other never reads; answers on a pipe, a line each: ``ready MEASURE...``, ``refused WHAT``, ``passed
TOKEN``, ``ended exit|signal|timeout|memory NUMBER``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from . import exchange, kernel

MEMORY = 77  # exit status of a program that ran out of memory
REFUSED_EVENTS = (
    "ctypes.", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.system", "pty.spawn", "resource.setrlimit", "resource.prlimit", "signal.pthread_kill", "socket.", "subprocess.",
    "sys.addaudithook", "syslog.", "webbrowser.",
)  # fmt: skip
# Event -> which of its arguments are paths that would be written, each with the place of the folder (a descriptor) that
# it is relative to.
WRITING_EVENTS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.chdir": ((0, None),), "os.chflags": ((0, None),), "os.chmod": ((0, 2),), "os.chown": ((0, 3),),
    "os.link": ((0, 2), (1, 3)), "os.mkdir": ((0, 2),), "os.remove": ((0, 1),), "os.removexattr": ((0, None),),
    "os.rename": ((0, 2), (1, 3)), "os.rmdir": ((0, 1),), "os.setxattr": ((0, None),), "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),), "os.utime": ((0, 3),), "sqlite3.connect": ((0, None),),
}  # fmt: skip


def main() -> None:
    """Confine, run, watch, report; the process ends here."""
    asked = json.load(sys.stdin)
    answers = int(asked["answers"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    measures = _confine_supervisor(asked)
    to_program, to_judge = os.pipe(), os.pipe()  # (reader, writer) each
    # First: in a process namespace of its own, the first process takes all others with it when it ends.
    judge = os.fork()
    if judge == 0:
        _close(to_program[0], to_judge[1], asked["program"])
        _judge(asked, measures, answers, to_judge[0], to_program[1])
    program = os.fork()
    if program == 0:
        _close(to_program[1], to_judge[0], asked["judge"])
        _program(asked, measures, answers, to_program[0], to_judge[1])
    _close(*to_program, *to_judge, asked["program"], asked["judge"])
    kind, number = _watch(judge, program, asked)
    _sweep()
    with contextlib.suppress(OSError):
        os.write(answers, f"ended {kind} {number}\n".encode())
    os._exit(0)


def _close(*numbers: int) -> None:
    for number in numbers:
        os.close(number)


def _confine_supervisor(asked: dict[str, Any]) -> list[str]:
    """What has to be arranged before the program's process exists."""
    measures: list[str] = []
    with contextlib.suppress(OSError):
        kernel.die_with_parent()
    with contextlib.suppress(OSError):
        kernel.adopt_orphans()
    if "namespaces" not in asked["without"]:
        with contextlib.suppress(OSError):
            kernel.enter_namespaces(asked["folder"], asked["disk"])
            measures.append("namespaces")
    with contextlib.suppress(OSError):
        kernel.hide()
    os.chdir(asked["folder"])
    return measures


def _confine(asked: dict[str, Any], measures: list[str], answers: int) -> None:
    """What binds the program's process and the tests' alike; from the widest to the narrowest, as each forbids the one
    before."""
    os.setpgid(0, 0)
    _limit(asked, "namespaces" in measures)
    with contextlib.suppress(OSError):  # without them root sees no memory but its own
        kernel.drop_privileges()
    for name, confine in (
        ("landlock", lambda: kernel.write_only_below(asked["folder"])),
        ("seccomp", kernel.filter_calls),
    ):
        if name not in asked["without"]:
            with contextlib.suppress(OSError):
                confine()
                measures.append(name)
    with contextlib.suppress(OSError):
        kernel.die_with_parent()
    for name in [n for n in sys.modules if n.partition(".")[0] in ("ctypes", "_ctypes")]:
        del sys.modules[name]
    if "hook" not in asked["without"]:
        alone = not {"namespaces", "landlock"} & set(measures)
        sys.addaudithook(_hook(os.path.realpath(asked["folder"]), answers, alone))
        measures.append("hook")


def _limit(asked: dict[str, Any], own_users: bool) -> None:
    """The kernel's limits per process; ``own_users``: processes are counted for this sandbox alone."""
    import resource

    wanted = {
        "RLIMIT_AS": asked["memory"], "RLIMIT_CPU": asked["cpu_seconds"], "RLIMIT_FSIZE": asked["disk"],
        "RLIMIT_CORE": 0, "RLIMIT_NOFILE": asked["files"], "RLIMIT_MSGQUEUE": 0,
    }  # fmt: skip
    if own_users:
        wanted["RLIMIT_NPROC"] = asked["processes"]
    for name, value in wanted.items():
        with contextlib.suppress(OSError, ValueError):  # macOS knows some of them and keeps to fewer
            which = getattr(resource, name, None)
            if which is not None:
                _, most = resource.getrlimit(which)
                value = value if most == resource.RLIM_INFINITY else min(value, most)
                resource.setrlimit(which, (value, value))


def _hook(folder: str, answers: int, alone: bool) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses what no answer to a programming task needs, and says what it refused.

    Everything it uses is bound here: the program may replace functions of modules. ``alone``: the kernel does not guard
    files, so that what the hook cannot judge is refused.
    """
    realpath, fspath, devnull, write, suppress = os.path.realpath, os.fspath, os.devnull, os.write, contextlib.suppress
    readlink, join, absolute = os.readlink, os.path.join, os.path.isabs
    writing_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    inside, text, integer, decode = folder + os.sep, str, int, os.fsdecode
    told: list[str] = []
    own = realpath("/proc/self") + os.sep

    def of_another(path: Any) -> bool:
        if isinstance(path, integer) or path is None:
            return False
        name = decode(fspath(path))
        whole = realpath(name) if "proc" in name else ""
        return whole[:6] == "/proc/" and whole[6:7].isdigit() and not whole.startswith(own)

    def outside(path: Any, base: Any = None) -> bool:
        if isinstance(path, integer) or path is None:
            return False
        name = decode(fspath(path))
        if isinstance(base, integer) and base >= 0 and not absolute(name):
            try:
                name = join(readlink(f"/proc/self/fd/{base}"), name)
            except OSError:
                return True
        whole = realpath(name)
        return name != devnull and whole != folder and not whole.startswith(inside)

    def refuse(what: str) -> None:
        if len(told) < 10:  # a program that tries for ever fills no pipe
            told.append(what)
            with suppress(OSError):
                write(answers, f"refused {what}\n".encode())
        raise PermissionError(f"{what} is refused here")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & writing_flags) or (isinstance(mode, text) and any(c in mode for c in "wax+"))
            # os.open (no mode) does not tell which folder a relative path starts from.
            unknown = alone and mode is None and not isinstance(path, integer) and not absolute(fspath(path))
            if writes and (unknown or outside(path)):
                refuse("open for writing")
            if of_another(path):
                refuse("open of another process")
        elif event in WRITING_EVENTS:
            for place, base in WRITING_EVENTS[event]:
                if outside(arguments[place], None if base is None else arguments[base]):
                    refuse(event)
        elif event == "import":
            if arguments[0] == "_ctypes":
                refuse("import of ctypes")
        elif event.startswith(REFUSED_EVENTS):
            refuse(event)

    return hook


def _program(asked: dict[str, Any], measures: list[str], answers: int, reader: int, writer: int) -> None:
    """The program's process; ends here."""

    def run(asked_of_it: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            kernel.hide(False)  # its own memory holds nothing to hide
        exchange.serve(asked_of_it["source"], asked_of_it["entry"], reader, writer)

    _end(asked, measures, answers, asked["program"], run)


def _judge(asked: dict[str, Any], measures: list[str], answers: int, reader: int, writer: int) -> None:
    """The tests' process; ends here. The token leaves it after the last test and not before."""

    def run(known: dict[str, Any]) -> None:
        exchange.judge(known["tests"], known["prompt"], known["entry"], reader, writer)
        os.write(answers, f"passed {known['token']}\n".encode())

    _end(asked, measures, answers, asked["judge"], run)


def _end(
    asked: dict[str, Any], measures: list[str], answers: int, file: int, run: Callable[[dict[str, Any]], None]
) -> None:
    """Confine this process, run what its file says, and leave with a status that says how it went."""
    status, leave = 1, os._exit
    try:
        with os.fdopen(file, encoding="utf-8") as settings:
            known = json.load(settings)
        own = list(measures)
        _confine(asked, own, answers)
        os.write(answers, f"ready {' '.join(own)}\n".encode())
        run(known)
        status = 0
    except MemoryError:
        status = MEMORY
    except exchange.ProgramLeft:
        status = exchange.LEFT
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc(limit=-5)
    leave(status)


def _watch(judge: int, program: int, asked: dict[str, Any]) -> tuple[str, int]:
    """Wait for the judge, and where the program left it for the program; end them when their time is over. How it
    ended, and with what number.

    Both are waited for at once: the first process of a namespace cannot end while another has not been taken note of.
    """
    ends, pause = time.monotonic() + asked["seconds"], 0.001
    ended: dict[int, tuple[str, int]] = {}
    while ended.get(judge, ("exit", exchange.LEFT)) == ("exit", exchange.LEFT) and len(ended) < 2:
        for pid in {judge, program} - ended.keys():
            done, status, used = os.wait4(pid, os.WNOHANG)
            if done:
                ended[pid] = _how(status, used.ru_utime + used.ru_stime, asked["cpu_seconds"])
        if time.monotonic() > ends:
            ended = {judge: ("timeout", 0)}
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    for pid in (program, judge):
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
    how = ended[judge]
    return ended[program] if how == ("exit", exchange.LEFT) else how


def _how(status: int, seconds: float, most: int) -> tuple[str, int]:
    """How a process ended that took ``seconds`` of the ``most`` that it had of the processor."""
    code = os.waitstatus_to_exitcode(status)
    # The kernel counts ticks for its limit and exact times for what it reports: on a busy machine the two differ.
    if -code in (signal.SIGKILL, signal.SIGXCPU) and seconds >= 0.5 * most:
        return "timeout", 0
    if code == MEMORY:
        return "memory", 0
    return ("exit", code) if code >= 0 else ("signal", -code)


def _sweep() -> None:
    """Kill what the program left behind: on Linux its orphans have become children of this process."""
    if sys.platform != "linux":
        return
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return  # none is left
        time.sleep(0.001)


def _children() -> list[int]:
    """Process ids whose parent is this process."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            # The program's name, in brackets, may hold anything; the state and the parent's id come after it.
            if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found
