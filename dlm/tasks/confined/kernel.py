"""Three ways in which Linux itself keeps a process from the rest of the machine: namespaces, Landlock, seccomp.

None needs root, a daemon or a helper program. Each function raises OSError where the kernel (or a container around it)
does not permit it. Sources: the manual pages user_namespaces(7), mount_setattr(2), landlock(7), seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from functools import cache
from typing import NamedTuple

NEW_MOUNTS, NEW_HOST_NAME, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
MOUNT_NOSUID, MOUNT_NODEV, MOUNT_RECURSIVE, MOUNT_PRIVATE = 2, 4, 16384, 1 << 18
AT_CURRENT, AT_RECURSIVE, MOUNT_READ_ONLY = -100, 0x8000, 1
# Numbered alike on every architecture, as all system calls since 2019.
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 444, 445, 446
DEATH_SIGNAL, GET_DUMPABLE, SET_DUMPABLE, SECCOMP, SUBREAPER, NO_NEW_PRIVILEGES = 1, 3, 4, 22, 36, 38


@cache
def _library() -> ctypes.CDLL:
    """The C library, opened at first use: macOS has one too, but none of these calls."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "needs Linux")
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def libc(name: str, *arguments: object) -> int:
    """Call a function of the C library; negative answers become OSError."""
    answer = getattr(_library(), name)(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return int(answer)


def enter_namespaces(folder: str, folder_bytes: int) -> None:
    """Own user, mounts, network, host name and IPC; every file system read-only, ``folder`` an empty one in memory.

    Children of the caller, not the caller, are in a new process namespace: the first is its process 1, and the kernel
    kills all others with it. The network has no device but a loopback that is down.

    Args:
        folder: the only place where files can be written from now on; the caller's current folder afterwards.
        folder_bytes: what it may hold.
    """
    uid, gid = os.getuid(), os.getgid()
    libc("unshare", NEW_USER | NEW_MOUNTS | NEW_PIDS | NEW_NETWORK | NEW_IPC | NEW_HOST_NAME)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    libc("mount", None, b"/", None, MOUNT_RECURSIVE | MOUNT_PRIVATE, None)
    read_only = ctypes.create_string_buffer(struct.pack("<QQQQ", MOUNT_READ_ONLY, 0, 0, 0), 32)
    libc("syscall", MOUNT_SETATTR, AT_CURRENT, b"/", AT_RECURSIVE, read_only, 32)
    options = f"size={folder_bytes},nr_inodes=4096,mode=700".encode()
    libc("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", MOUNT_NOSUID | MOUNT_NODEV, options)
    os.chdir(folder)


def drop_privileges() -> None:
    """Give up every capability for good: root may not undo what was arranged, setuid programs give nothing back."""
    libc("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0), 8)
    libc("capset", header, ctypes.create_string_buffer(24))


def write_only_below(folder: str) -> None:
    """Landlock: no file is written, made, renamed or removed outside ``folder``.

    Modes, owners and times of files are not covered: :func:`filter_calls` is.
    """
    version = libc("syscall", LANDLOCK_CREATE, None, 0, 1)
    # Bit 1 writes to a file, 4 and 5 remove, 6 to 12 make entries, 13 moves between folders, 14 truncates.
    bits = [1, *range(4, 13)] + ([13] if version >= 2 else []) + ([14] if version >= 3 else [])
    rights = sum(1 << bit for bit in bits)
    rules = libc("syscall", LANDLOCK_CREATE, ctypes.create_string_buffer(struct.pack("<Q", rights), 8), 8, 0)
    try:
        on_files = rights & (1 << 1 | 1 << 14)
        for path, allowed in ((folder, rights), (os.devnull, on_files)):
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = ctypes.create_string_buffer(struct.pack("<Qi", allowed, parent), 12)
            libc("syscall", LANDLOCK_ADD, rules, 1, rule, 0)
            os.close(parent)
        libc("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc("syscall", LANDLOCK_RESTRICT, rules, 0)
    finally:
        os.close(rules)


class _Numbers(NamedTuple):
    """System calls of an architecture (asm/unistd.h)."""

    architecture: int  # as linux/audit.h names it
    clone: int
    tgkill: int
    refused: frozenset[int]


# Refused: new processes and programs, sockets, signals to others, their memory, limits and scheduling, modes, owners
# and times of files, shared memory, mounts, namespaces, and doors into the kernel that no answer needs (io_uring, bpf).
_NUMBERS = {
    "x86_64": _Numbers(0xC000003E, 56, 234, frozenset((
        29, 41, 53, 57, 58, 59, 62, 64, 68, 90, 91, 92, 93, 94, 101, 103, 129, 132, 133, 141, 142, 144, 155,
        159, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171, 175, 176, 179, 188, 189, 190, 197, 198, 199, 200,
        203, 227, 235, 240, 246, 248, 249, 250, 251, 256, 259, 260, 261, 268, 272, 279, 280, 297, 298, 302, 303,
        304, 305, 308, 310, 311, 312, 313, 314, 320, 321, 322, 323, 424, 425, 426, 427, 428, 429, 430, 431, 432,
        433, 434, 438, 440, 442, 452,
    ))),
    "aarch64": _Numbers(0xC00000B7, 220, 131, frozenset((
        5, 6, 7, 14, 15, 16, 30, 33, 39, 40, 41, 51, 52, 53, 54, 55, 60, 88, 89, 97, 104, 105, 106, 112, 116,
        117, 118, 119, 122, 129, 130, 138, 140, 142, 161, 162, 170, 171, 180, 186, 190, 194, 198, 199, 217, 218,
        219, 221, 224, 225, 238, 239, 240, 241, 261, 264, 265, 266, 268, 270, 271, 272, 273, 274, 280, 281, 282,
        294, 424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 452,
    ))),
}  # fmt: skip
CLONE3 = 435
ALLOW, REFUSE, ABSENT = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
THREAD = 0x00010000  # the flag of clone that makes a thread and no process


def filter_calls() -> None:
    """seccomp: no new process or program, no socket, no signal to another process; threads work.

    Holds for the calling process for good. A number is refused with EPERM, so that the program sees an error.
    """
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"no table of system calls for {platform.machine()}")
    program = [
        (LOAD, 0, 0, 4), (EQUAL, 1, 0, numbers.architecture), (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, 0),
        (AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE),  # the x32 names of the same calls
        (EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ABSENT),  # its flags are behind a pointer; libc takes clone
        (EQUAL, 0, 4, numbers.clone), (LOAD, 0, 0, 16), (ANY_BIT, 1, 0, THREAD), (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
        (EQUAL, 0, 4, numbers.tgkill), (LOAD, 0, 0, 16), (EQUAL, 1, 0, os.getpid()), (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip
    for number in sorted(numbers.refused):
        program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    program.append((RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in program))
    pointer = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code)), 16)
    libc("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc("prctl", SECCOMP, 2, pointer, 0, 0)


def die_with_parent() -> None:
    """SIGKILL when the parent ends, however it ends."""
    libc("prctl", DEATH_SIGNAL, 9, 0, 0, 0)


def adopt_orphans() -> None:
    """Processes that a descendant leaves behind become children of the caller, where it finds them."""
    libc("prctl", SUBREAPER, 1, 0, 0, 0)


def hide(hidden: bool = True) -> bool:
    """Whether others may read the memory and the environment of this process (``/proc/PID/mem``, ``environ``): not even
    the same user may while it is hidden. Says whether it was hidden before."""
    before = libc("prctl", GET_DUMPABLE, 0, 0, 0, 0) != 1
    libc("prctl", SET_DUMPABLE, int(not hidden), 0, 0, 0)
    return before
