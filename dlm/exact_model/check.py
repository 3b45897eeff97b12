"""Hold a cell of the table against what the decode loop makes of it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from math import sqrt
from typing import Any

from dlm.engine.sampler import Sampler
from dlm.exact_model.cells import Cell
from dlm.exact_model.rollouts import roll

SETTLED_ROLLOUTS = 200  # enough where every single output must be right, or none


@dataclass(frozen=True)
class Checked:
    """A cell and what was measured.

    Attributes:
        cell: what must come out.
        rollouts: how often it was decoded.
        measured: share of right outputs.
        tolerance: how far that may be from ``cell.accuracy``.
        forwards: forwards of the right outputs (of all, where none should be right), each number once.
        seconds: wall time.
    """

    cell: Cell
    rollouts: int
    measured: float
    tolerance: float
    forwards: tuple[int, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether accuracy and forwards are what they must be."""
        near = abs(self.measured - float(self.cell.accuracy)) <= self.tolerance
        return near and (self.cell.forwards is None or set(self.forwards) <= {self.cell.forwards})

    @property
    def record(self) -> dict[str, Any]:
        """Plain values, for files."""
        cell, group = self.cell, self.cell.group
        return {
            "task": group.task, "n": group.n, "law": group.law, "way": cell.way, "sampler": " ".join(cell.overrides),
            "exact": str(cell.accuracy), "accuracy": float(cell.accuracy), "measured": self.measured,
            "tolerance": self.tolerance, "rollouts": self.rollouts, "forwards_expected": cell.forwards,
            "forwards": list(self.forwards), "ok": self.ok, "seconds": round(self.seconds, 3),
        }  # fmt: skip


def tolerance(accuracy: float, rollouts: int) -> float:
    """Four standard deviations and one rollout; nothing where the accuracy is 0 or 1."""
    if accuracy in (0.0, 1.0):
        return 0.0
    return 4 * sqrt(accuracy * (1 - accuracy) / rollouts) + 1 / rollouts


def check(cell: Cell, sampler: Sampler, rollouts: int, seed: int = 0, batch_size: int = 250) -> Checked:
    """Decode a cell ``rollouts`` times; at most :data:`SETTLED_ROLLOUTS` times when its accuracy is 0 or 1.

    The noise depends on ``seed`` and on the cell, so that cells err independently of each other.
    """
    accuracy = float(cell.accuracy)
    n = min(rollouts, SETTLED_ROLLOUTS) if accuracy in (0.0, 1.0) else rollouts
    began = time.perf_counter()
    name = repr((seed, cell.group.task, cell.group.n, cell.group.law, cell.way)).encode()
    own = int.from_bytes(hashlib.sha256(name).digest()[:4], "little")
    out = roll(cell.group.question(), sampler, n, own, batch_size)
    forwards = out.forwards_right if cell.accuracy else out.forwards
    measured = (out.scored if cell.group.scored else out.right) / n
    seconds = time.perf_counter() - began
    return Checked(cell, n, measured, tolerance(accuracy, n), tuple(sorted(forwards)), seconds)
