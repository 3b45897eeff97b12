"""Slurm without accounts: what became of a job is asked of the queue."""

from __future__ import annotations

import subprocess
import time
from typing import Any

LOOK = 30  # most seconds between two looks


def watch_queue() -> None:
    """Let submitit ask ``squeue`` where ``sacct`` does not answer: it would never learn there that a job is gone, and
    wait for it."""
    if _said("sacct", "--noheader") is not None or _said("squeue", "--version") is None:
        return
    from submitit.slurm import slurm

    class QueueWatcher(slurm.SlurmInfoWatcher):
        """States of this user's jobs; one that is not in the queue has ended."""

        def update(self) -> None:
            told, self._last_status_check = _said("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T"), time.time()
            if told is None:  # the controller is away for a while
                return
            states = dict(line.split("|", 1) for line in told.splitlines() if "|" in line)
            for job in self._registered - self._finished:
                self._info_dict[job] = {"JobID": job, "State": states.get(job, "COMPLETED"), "NodeList": ""}
                if self.is_done(job, mode="cache"):
                    self._finished.add(job)

    slurm.SlurmJob.watcher = QueueWatcher(delay_s=LOOK)


def _said(*words: Any) -> str | None:
    """What a program prints; None: it is not there, or fails."""
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout if told.returncode == 0 else None
