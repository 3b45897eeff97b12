"""The rows that are being decoded now, and those that wait for a place."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.interfaces import CacheRun
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerState
from dlm.engine.step import BlockState
from dlm.errors import OutOfMemoryError


class Place(NamedTuple):
    """Where a batch lives: the ids of its model, and the device."""

    ids: SpecialIds
    device: torch.device


@dataclass
class Batch:
    """Live rows in slots ``0 .. B-1``; a finished row's slot goes to a waiting job, or away when none waits.

    Jobs are taken longest first, so that rows of similar length share a batch and the largest batch of the run
    comes first (an out-of-memory shows at once). Order never changes a row's result.
    """

    canvas: Canvas
    rows: list[Row]
    waiting: deque[Job]
    blocks: BlockState
    sampler: Sampler
    cache: CacheRun
    state: SamplerState
    steady: bool = False  # whether the number of rows is kept while more than half of them are left
    _open: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @classmethod
    def start(
        cls,
        jobs: Sequence[Job],
        size: int,
        sampler: Sampler,
        place: Place,
        open_cache: Callable[[Canvas], CacheRun],
        room: int = 0,
    ) -> Batch:
        """The first ``size`` jobs in slots, the rest waiting; ``open_cache`` makes the cache for their canvas, which is
        as wide as the longest row may get, or one of ``room`` positions that joins later."""
        begin = sampler.blocks.starting_length
        jobs = [replace(job, length=begin(job.end - job.start)) for job in jobs]
        order = sorted(jobs, key=lambda job: (-job.end, job.index))
        live, waiting = order[:size], deque(order[size:])
        canvas = Canvas.of(live, max(room, *(job.end for job in jobs)), place.ids, place.device)
        rows, blocks, state = [Row.of(job) for job in live], BlockState.fresh(canvas), SamplerState.of(sampler, canvas)
        return cls(canvas, rows, waiting, blocks, sampler, open_cache(canvas), state)

    def open_in(self, blocks: BlockState) -> Bool[Tensor, "B W"]:
        """Positions of the blocks that are still to be filled; kept, since the end of a step and the beginning of the
        next one ask the same."""
        masked, block = self.canvas.masked, blocks.block
        if self._open is None or self._open[0] is not masked or self._open[1] is not block:
            self._open = masked, block, masked & block
        return self._open[2]

    def join(self, size: int) -> None:
        """Let waiting jobs into slots of their own, up to ``size`` rows; rows that only fill a place make room."""
        live = [slot for slot, row in enumerate(self.rows) if not row.ghost]
        fresh = min(size - len(live), len(self.waiting))
        if fresh <= 0:
            return
        # A copy of a row that is there has all that a row has, of whatever kind the parts' memories are.
        self.keep([*live, *[live[-1]] * fresh])
        slots = list(range(len(live), len(live) + fresh))
        for slot in slots:
            job = self.waiting.popleft()
            self.canvas.place(slot, job)
            self.rows[slot] = Row.of(job)
        self._reset(slots)

    def release(self, finished: Sequence[int]) -> None:
        """Free the slots of finished rows: waiting jobs move in, what is left over is compacted away."""
        freed = list(finished)
        moved_in = []
        while freed and self.waiting:
            slot, job = freed.pop(0), self.waiting.popleft()
            self.canvas.place(slot, job)
            self.rows[slot] = Row.of(job)
            moved_in.append(slot)
        if moved_in:
            self._reset(moved_in)
        left = [slot for slot, row in enumerate(self.rows) if slot not in freed and not row.ghost]
        if freed and self.steady and 2 * len(left) > len(self.rows):
            self._fill_up(left)
        elif freed:
            self.keep(left)

    def _fill_up(self, left: list[int]) -> None:
        """Keep the number of rows: copies of the last one that is left stand in for those that went."""
        size, last = len(self.rows), left[-1]
        self.keep([*left, *[last] * (size - len(left))])
        for slot in range(len(left), size):
            self.rows[slot] = replace(self.rows[slot], ghost=True)

    def shrink(self, error: BaseException) -> None:
        """Halve the batch after an out-of-memory error; re-raise anything else.

        Raises:
            OutOfMemoryError: there is only one row.
        """
        if not is_out_of_memory(error):
            raise error
        if len(self.rows) == 1:
            row = self.rows[0]
            raise OutOfMemoryError(
                f"prompt {row.job.index} alone ({row.job.end} positions) does not fit into memory: use fewer new"
                " tokens, a narrower dtype, or a device with more memory"
            ) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        before, left = len(self.rows), self.halve()
        warnings.warn(f"out of memory with {before} rows in the batch; going on with {left}", RuntimeWarning, 4)

    def halve(self) -> int:
        """Send the second half of the rows back to the waiting line (they start again); returns the rows left."""
        left = (len(self.rows) + 1) // 2
        self.waiting.extendleft(row.job for row in reversed(self.rows[left:]) if not row.ghost)
        self.keep(list(range(left)))
        return left

    def keep(self, slots: list[int]) -> None:
        """Row compaction: only ``slots`` stay, in that order."""
        index = torch.tensor(slots, dtype=torch.long, device=self.canvas.tokens.device)
        self.canvas.keep(slots)
        self.cache.keep(slots)
        self.rows = [self.rows[slot] for slot in slots]
        self.blocks = self.blocks.of(index)
        self.state = self.state.keep(index)

    def _reset(self, slots: list[int]) -> None:
        """Block state and memories of the rows that have just moved into ``slots``."""
        fresh = torch.zeros(len(self.rows), dtype=torch.bool, device=self.canvas.tokens.device)
        fresh[slots] = True
        self.blocks = self.blocks.renewed(BlockState.fresh(self.canvas), fresh)
        self.cache.renew(slots)
        self.state.adopt(SamplerState.of(self.sampler, self.canvas), fresh)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out (the CPU allocator raises a bare RuntimeError)."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )
