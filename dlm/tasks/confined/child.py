"""The sandboxed side: a supervisor, and the process that runs the program.

Talks to :mod:`dlm.tasks.sandbox`: settings as JSON on stdin; answers on a pipe, a line each: ``ready MEASURE...``,
``refused WHAT``, ``passed TOKEN``, ``ended exit|signal|timeout|memory NUMBER``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

from . import kernel

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
    program = os.fork()
    if program == 0:
        _run(asked, measures, answers)
    kind, number = _watch(program, asked)
    _sweep()
    with contextlib.suppress(OSError):
        os.write(answers, f"ended {kind} {number}\n".encode())
    os._exit(0)


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
    os.chdir(asked["folder"])
    return measures


def _confine_program(asked: dict[str, Any], measures: list[str], answers: int) -> None:
    """What binds the program's process alone; from the widest to the narrowest, as each forbids the one before."""
    os.setpgid(0, 0)
    _limit(asked, "namespaces" in measures)
    if "namespaces" in measures:
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


def _run(asked: dict[str, Any], measures: list[str], answers: int) -> None:
    """The program's process; ends here. The token leaves it after the last line of the program and not before."""
    status = 1
    write, leave = os.write, os._exit
    try:
        _confine_program(asked, measures, answers)
        write(answers, f"ready {' '.join(measures)}\n".encode())
        module = types.ModuleType("program")
        sys.modules["program"] = module
        exec(compile(asked["source"], "program.py", "exec"), module.__dict__)
        write(answers, f"passed {asked['token']}\n".encode())
        status = 0
    except MemoryError:
        status = MEMORY
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc(limit=-5)
    leave(status)


def _watch(program: int, asked: dict[str, Any]) -> tuple[str, int]:
    """Wait for the program's process and end it when its time is over: how it ended, and with what number."""
    began, pause = time.monotonic(), 0.001
    while True:
        pid, status, used = os.wait4(program, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - began > asked["seconds"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)
                os.killpg(program, signal.SIGKILL)
            os.wait4(program, 0)
            return "timeout", 0
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    # The kernel counts ticks for its limit and exact times for what it reports: on a busy machine the two differ.
    if -code in (signal.SIGKILL, signal.SIGXCPU) and used.ru_utime + used.ru_stime >= 0.5 * asked["cpu_seconds"]:
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
