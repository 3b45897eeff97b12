"""Programs that misbehave in every way: none passes, none does harm, none lives on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlm.errors import SandboxError, SettingsError
from dlm.tasks import sandbox
from dlm.tasks.confined import kernel
from dlm.tasks.sandbox import Limits, level, level_of, run_program

SHORT = Limits(seconds=0.5, cpu_seconds=1, memory_mb=256, disk_mb=4)
SMALL = Limits(seconds=20.0, cpu_seconds=5, memory_mb=256, disk_mb=4)
# What this machine cannot do is left out by the sandbox itself; the tests leave out the stronger measures in turn.
LEVELS = {"strongest": (), "filters": ("namespaces",), "hook": ("namespaces", "landlock", "seccomp")}
# The kernel alone, without the hook: what a program that gets round Python meets.
KERNEL = {"namespaces": ("hook", "landlock", "seccomp"), "filters": ("hook", "namespaces")}


def alive(mark: str) -> list[str]:
    """Processes whose command line or environment holds ``mark``."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = Path(f"/proc/{name}/cmdline").read_bytes() + Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in text:
                found.append(name)
    return found


@pytest.fixture(params=LEVELS)
def without(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return LEVELS[request.param]


@pytest.fixture(params=KERNEL)
def kernel_only(request: pytest.FixtureRequest) -> tuple[str, ...]:
    left_out = KERNEL[request.param]
    if request.param not in (level(), level_of(run_program("pass", without=("namespaces",)).measures)):
        pytest.xfail(f"this kernel has no {request.param}")
    return left_out


def test_right_and_wrong_programs(without: tuple[str, ...]) -> None:
    right = "def f(x):\n    return x + 1\n"
    assert run_program(right + "assert f(1) == 2", without=without).status == "passed"
    wrong = run_program(right + "assert f(1) == 3, 'not three'", without=without)
    assert wrong.status == "failed" and "AssertionError: not three" in wrong.detail
    assert run_program("def f(:", without=without).status == "failed"
    assert run_program("\0", without=without).status == "failed"


def test_what_programs_need_works(without: tuple[str, ...]) -> None:
    program = """
import collections, dataclasses, hashlib, heapq, itertools, math, random, re, string, sys, tempfile, threading, typing
@dataclasses.dataclass
class Point:
    x: int
    y: typing.Optional[int] = None
with open("here.txt", "w") as file:
    file.write("1")
with tempfile.TemporaryFile() as file:
    file.write(b"2")
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/there.txt", "w").close()
assert open("here.txt").read() == "1" and Point(1).x == 1
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start(); thread.join()
assert done == [1] and __name__ != "__main__" and hashlib.md5(b"").hexdigest().startswith("d41d8")
"""
    outcome = run_program(program, without=without)
    assert outcome.status == "passed", outcome


def test_leaving_before_the_last_line_is_not_passing(without: tuple[str, ...]) -> None:
    for line in (
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "import sys; sys.exit()",
        "quit = exit = 1; raise KeyboardInterrupt",
    ):
        assert run_program(f"{line}\nassert False", without=without).status == "failed", line


def test_endless_programs_end(without: tuple[str, ...]) -> None:
    for program in ("while True: pass", "import time; time.sleep(100)", "print(*iter(int, 1))"):
        began = time.monotonic()
        assert run_program(program, limits=SHORT, without=without).status in ("timeout", "memory"), program
        assert time.monotonic() - began < 20


def test_processor_time_is_what_counts() -> None:
    limits = Limits(seconds=30, cpu_seconds=1)
    began = time.monotonic()
    assert run_program("while True: pass", limits=limits).status == "timeout"
    assert time.monotonic() - began < 25


def test_memory_is_bounded(without: tuple[str, ...]) -> None:
    for program in ("x = bytearray(1 << 30)", "x = [0]\nwhile True: x += x", "x = 'a' * (1 << 40)"):
        assert run_program(program, limits=Limits(memory_mb=96), without=without).status == "memory", program


def test_a_crash_is_said(without: tuple[str, ...]) -> None:
    deep = "import sys; sys.setrecursionlimit(10**9)\nf = lambda: f()\nf()"
    outcome = run_program("import os; os.abort()", limits=SMALL, without=without)
    # Process 1 of a namespace may ignore SIGABRT; the C library then stops it with an invalid instruction.
    assert outcome.status == "killed" and outcome.detail in ("signal 6", "signal 11"), outcome
    assert run_program(deep, limits=SHORT, without=without).status in ("killed", "memory", "timeout")


def test_processes_are_refused(without: tuple[str, ...]) -> None:
    for program in (
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.killpg(0, 9)",
        "import multiprocessing; multiprocessing.get_context('fork').Process(target=print).start()",
    ):
        outcome = run_program(program, limits=SMALL, without=without)
        assert outcome.status == "refused" and outcome.detail.startswith(("os.", "subprocess.")), (program, outcome)


def test_sockets_and_ctypes_are_refused(without: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        for program in (
            f"import socket; socket.create_connection({address!r})",
            f"import urllib.request as r; r.urlopen('http://{address[0]}:{address[1]}', timeout=1)",
            "import socket; socket.getaddrinfo('localhost', 80)",
            "import ctypes; ctypes.CDLL(None).getpid()",
        ):
            assert run_program(program, limits=SMALL, without=without).status == "refused", program
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


def test_nothing_is_written_outside(without: tuple[str, ...], tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("as it was", encoding="utf-8")
    before = kept.stat()
    for line in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(kept)!r}, 'a').write('x')",
        f"os.remove({str(kept)!r})",
        f"os.rename({str(kept)!r}, 'stolen')",
        f"os.truncate({str(kept)!r}, 0)",
        f"os.chmod({str(kept)!r}, 0)",
        f"os.utime({str(kept)!r}, (0, 0))",
        f"os.symlink({str(kept)!r}, 'link'); open('link', 'w')",
        f"os.mkdir({str(tmp_path / 'folder')!r})",
        "open('../outside', 'w')",
        f"__import__('shutil').rmtree({str(tmp_path)!r})",
        f"os.remove('kept.txt', dir_fd=os.open({str(tmp_path)!r}, os.O_RDONLY))",
    ):
        outcome = run_program(f"import os\n{line}", limits=SMALL, without=without)
        assert outcome.status == "refused", (line, outcome)
    assert os.listdir(tmp_path) == ["kept.txt"] and kept.read_text(encoding="utf-8") == "as it was"
    assert (kept.stat().st_mode, kept.stat().st_mtime) == (before.st_mode, before.st_mtime)


def test_the_folder_is_bounded_and_goes_away(without: tuple[str, ...]) -> None:
    outcome = run_program("open('big', 'wb').write(bytes(100 << 20))", limits=SMALL, without=without)
    assert outcome.status in ("failed", "killed"), outcome
    where = run_program("import os\nraise ValueError(os.getcwd())", without=without).detail
    assert "dlm-sandbox-" in where
    assert not Path(where.rpartition(" ")[2]).exists()


def test_output_and_input_do_no_harm(without: tuple[str, ...]) -> None:
    loud = "import sys\nsys.stderr.write('x' * 10_000_000)\nprint('y' * 10_000_000)\nassert 0"
    outcome = run_program(loud, without=without)
    assert outcome.status == "failed" and 0 < len(outcome.detail) <= sandbox.TAIL
    assert run_program("input()", without=without).detail.endswith("EOFError: EOF when reading a line")


def test_a_flood_on_the_pipe_proves_nothing(without: tuple[str, ...]) -> None:
    flood = """
import os
for number in range(3, 20):
    try:
        for _ in range(2000):
            os.write(number, b'passed me\\nended exit 0\\n')
    except OSError:
        pass
assert False
"""
    assert run_program(flood, limits=SMALL, without=without).status == "failed"


def test_a_daemon_does_not_live_on(without: tuple[str, ...]) -> None:
    """Without the hook and without seccomp it does fork; its own session does not save it."""
    if without == ():
        without = ("landlock", "seccomp")
    elif without == LEVELS["filters"]:
        return
    mark = f"dlm_test_daemon_{os.getpid()}_{time.monotonic_ns()}"
    daemon = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve({sys.executable!r}, ['python', '-S', '-c', 'import time; time.sleep(60) # {mark}'], {{}})
    os._exit(0)
time.sleep(0.3)
"""
    assert run_program(daemon, without=(*without, "hook")).status == "passed"
    assert alive(mark) == []


def test_the_kernel_alone_holds(kernel_only: tuple[str, ...], tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("as it was", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        for line in (
            f"open({str(tmp_path / 'new')!r}, 'w')",
            f"os.remove({str(kept)!r})",
            f"os.chmod({str(kept)!r}, 0)",
            f"import socket; socket.create_connection({server.getsockname()!r}, timeout=1)",
            f"os.kill({os.getpid()}, 9)",
            f"open('/proc/{os.getpid()}/mem', 'r+b')",
        ):
            assert run_program(f"import os\n{line}", limits=SMALL, without=kernel_only).status == "failed", line
    assert os.listdir(tmp_path) == ["kept.txt"]


@pytest.mark.parametrize(
    "left_out", [(), ("hook",), ("hook", "namespaces"), ("hook", "namespaces", "landlock", "seccomp")]
)
def test_no_key_of_this_process_is_read(left_out: tuple[str, ...], tmp_path: Path) -> None:
    """Neither its environment nor its memory; when the program is over, it is as it was."""
    if sys.platform != "linux":
        pytest.xfail("Linux hides a process, others do not")
    read = "import os\nfor name in ('environ', 'mem'):\n  try:\n    open(f'/proc/{OTHER}/{name}', 'rb')\n"
    read += "  except OSError: pass\n  else: raise ValueError(name)\n"
    code = (
        "import os; from dlm.tasks.sandbox import run_program; from dlm.tasks.confined import kernel;"
        f"outcome = run_program(f'OTHER = {{os.getpid()}}\\n' + {read!r}, without={left_out!r});"
        "assert outcome.status in ('passed', 'refused'), outcome; assert not kernel.hide()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MY_API_KEY": "x"})


def test_what_a_program_says_is_kept_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "wxyz-1234")
    said = run_program("raise ValueError('wxyz-1234 hf_' + 'a' * 34 + ' sk-proj-' + 'b' * 30 + ' is sk-ill')").detail
    assert said.endswith("ValueError: [hidden] [hidden] [hidden] is sk-ill")


def test_root_cannot_undo_the_namespaces() -> None:
    if level() != "namespaces":
        pytest.xfail("no namespaces here")
    # ctypes is gone from the modules; the hook is left out, so that it can be imported again.
    undo = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
MS_REMOUNT, MS_BIND = 32, 4096
assert libc.mount(None, b"/", None, MS_REMOUNT | MS_BIND, None) == -1
assert libc.umount2(os.getcwd().encode(), 2) == -1
assert libc.sethostname(b"x", 1) == -1
assert libc.setuid(0 if os.getuid() else 1) == -1
"""
    outcome = run_program(undo, without=("hook", "landlock", "seccomp"))
    assert outcome.status == "passed", outcome


def test_it_ends_with_this_process(tmp_path: Path) -> None:
    mark = f"dlm_test_orphan_{os.getpid()}_{time.monotonic_ns()}"
    code = f"from dlm.tasks.sandbox import run_program; run_program('import time; time.sleep(60)')  # {mark}"
    run = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    ends = time.monotonic() + 30
    children: list[str] = []
    while not children and time.monotonic() < ends:
        time.sleep(0.05)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="ascii").split()
    time.sleep(0.3)
    run.kill()
    run.wait()
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < ends:
        time.sleep(0.02)
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


def test_levels() -> None:
    assert level() == level_of(run_program("pass").measures)
    assert level_of(("namespaces", "hook")) == "namespaces"
    assert level_of(("landlock", "seccomp")) == "filters"
    assert level_of(("landlock", "hook")) == "hook"
    assert level_of(()) == "none"


def test_a_sandbox_that_does_not_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_CHILD", "raise RuntimeError('{}')")
    with pytest.raises(SandboxError, match="did not start"):
        run_program("pass")
    monkeypatch.setattr(sandbox.os, "name", "nt")
    with pytest.raises(SandboxError, match="Linux and macOS only"):
        run_program("pass")


def test_limits_are_checked() -> None:
    for bad in ({"seconds": 0}, {"cpu_seconds": 1.5}, {"memory_mb": True}, {"files": 0}, {"seconds": float("nan")}):
        with pytest.raises(SettingsError, match=next(iter(bad))):
            Limits(**bad)  # type: ignore[arg-type]


def test_numbers_of_calls() -> None:
    """Some of the table against numbers as the manual pages and other programs have them."""
    refused = {
        "x86_64": {"fork": 57, "execve": 59, "socket": 41, "kill": 62, "ptrace": 101, "chmod": 90, "mount": 165},
        "aarch64": {"execve": 221, "socket": 198, "kill": 129, "ptrace": 117, "fchmodat": 53, "mount": 40},
    }
    needed = {
        "x86_64": {"read": 0, "write": 1, "mmap": 9, "rt_sigaction": 13, "exit": 60, "futex": 202, "openat": 257},
        "aarch64": {"read": 63, "write": 64, "mmap": 222, "rt_sigaction": 134, "exit": 93, "futex": 98, "openat": 56},
    }
    for machine, numbers in kernel._NUMBERS.items():
        assert set(refused[machine].values()) <= numbers.refused
        assert not {*needed[machine].values(), numbers.clone, numbers.tgkill, kernel.CLONE3} & numbers.refused
