"""Processes of a test, made by fork: they have the model at once, and can be killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any


class Fork:
    """A process that calls ``act`` and ends with 0, or with 7 after an error of ours, 8 after any other."""

    def __init__(self, act: Callable[[], Any], **environment: str) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        status = 8
        try:
            from dlm.errors import DlmError

            # Transformers loads weights in threads, and torch has no pool for threads that are new after a fork.
            os.environ.update(environment | {"HF_DEACTIVATE_ASYNC_LOAD": "1"})
            try:
                act()
                status = 0
            except DlmError as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                status = 7
        finally:
            os._exit(status)

    def kill(self) -> None:
        """End it as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit status, negative for a signal; a process that does not end is killed and fails the test."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill()
        os.waitpid(self.pid, 0)
        raise AssertionError("the process did not end")


def pair(act: Callable[[int], Any]) -> list[Fork]:
    """Two processes that find each other as those of a launcher do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [Fork(lambda rank=rank: act(rank), RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in (0, 1)]


def killed_while_writing(after: int) -> Callable[[int, bytes], int]:
    """An ``os.write`` that kills its process in the middle of the line after ``after`` others."""
    real, count = os.write, [0]

    def write(file: int, data: bytes) -> int:
        if data.startswith(b'{"instance_id"'):
            count[0] += 1
            if count[0] > after:
                real(file, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        return real(file, data)

    return write
