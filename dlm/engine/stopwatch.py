"""The time each part of a step takes, without waiting for the device."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Stopwatch:
    """Splits a step into forward and sampler time.

    On the CPU it reads the clock. On a GPU it records events and reads them after the step's only synchronisation.
    """

    device: torch.device
    _marks: list[tuple[str, Any]] = field(default_factory=list)
    _silent: bool = False

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Inside, marks count for nothing: what is captured is not timed in parts."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def mark(self, phase: str) -> None:
        """What follows, until the next mark, belongs to ``phase``."""
        if self._silent:
            return
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            with on(self.device):
                event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))

    def read(self) -> dict[str, float]:
        """Seconds per phase up to the last mark; starts afresh. On a GPU the last mark must have been reached, which
        the step's synchronisation after it guarantees."""
        seconds: dict[str, float] = {}
        for (phase, begin), (_, end) in itertools.pairwise(self._marks):
            seconds[phase] = seconds.get(phase, 0.0) + self._between(begin, end)
        self._marks.clear()
        return seconds

    def _between(self, begin: Any, end: Any) -> float:
        took: float = begin.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - begin
        return took


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, what asks for the present GPU gets this one; nothing changes where there is one at most."""
    return torch.cuda.device(device) if torch.cuda.device_count() > 1 else nullcontext()
