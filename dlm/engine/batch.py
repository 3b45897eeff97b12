"""The rows that are being decoded now, and those that wait for a place."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.interfaces import CacheRun, Part, State
from dlm.engine.row import Row
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
    parts: dict[str, Part]
    cache: CacheRun
    states: dict[str, State] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        jobs: Sequence[Job],
        size: int,
        parts: dict[str, Part],
        place: Place,
        open_cache: Callable[[Canvas], CacheRun],
    ) -> Batch:
        """The first ``size`` jobs in slots, the rest waiting; ``open_cache`` makes the cache for their canvas."""
        order = sorted(jobs, key=lambda job: (-job.end, job.index))
        live, waiting = order[:size], deque(order[size:])
        canvas = Canvas.of(live, max((job.end for job in jobs), default=0), place.ids, place.device)
        zeros = torch.zeros_like(canvas.start)
        blocks = BlockState(zeros, canvas.start, canvas.start, zeros, zeros, torch.zeros_like(canvas.writable), zeros)
        batch = cls(canvas, [Row(job, len(job.writable)) for job in live], waiting, blocks, parts, open_cache(canvas))
        batch.states = {role: part.init(canvas) for role, part in parts.items()}
        return batch

    def release(self, finished: Sequence[int]) -> None:
        """Free the slots of finished rows: waiting jobs move in, what is left over is compacted away."""
        freed = list(finished)
        moved_in = []
        while freed and self.waiting:
            slot, job = freed.pop(0), self.waiting.popleft()
            self.canvas.place(slot, job)
            self.rows[slot] = Row(job, len(job.writable))
            moved_in.append(slot)
        if moved_in:
            self._reset(moved_in)
        if freed:
            self.keep([slot for slot in range(len(self.rows)) if slot not in freed])

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
        self.waiting.extendleft(row.job for row in reversed(self.rows[left:]))
        self.keep(list(range(left)))
        return left

    def keep(self, slots: list[int]) -> None:
        """Row compaction: only ``slots`` stay, in that order."""
        index = torch.tensor(slots, dtype=torch.long, device=self.canvas.tokens.device)
        self.canvas.keep(slots)
        self.cache.keep(slots)
        self.rows = [self.rows[slot] for slot in slots]
        self.blocks = BlockState(
            *(getattr(self.blocks, name).index_select(0, index) for name in BlockState.__annotations__)
        )
        self.states = {role: map_state(lambda x: x.index_select(0, index), s) for role, s in self.states.items()}

    def _reset(self, slots: list[int]) -> None:
        """Clocks and part memories of the rows that have just moved into ``slots``."""
        fresh = torch.zeros(len(self.rows), dtype=torch.bool, device=self.canvas.tokens.device)
        fresh[slots] = True
        blocks = self.blocks
        self.blocks = BlockState(
            step=blocks.step.masked_fill(fresh, 0),
            block_start=torch.where(fresh, self.canvas.start, blocks.block_start),
            block_end=torch.where(fresh, self.canvas.start, blocks.block_end),
            block_step=blocks.block_step.masked_fill(fresh, 0),
            block_masks=blocks.block_masks.masked_fill(fresh, 0),
            block=blocks.block & ~fresh[:, None],
            block_number=blocks.block_number.masked_fill(fresh, 0),
            opened_end=torch.where(fresh, self.canvas.start, blocks.opened_end),
        )
        self.cache.renew(slots)
        for role, part in self.parts.items():
            self.states[role] = renew_state(self.states[role], part.init(self.canvas), fresh)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out (the CPU allocator raises a bare RuntimeError)."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``function`` to every tensor of a part's memory (None, a tensor, or a tuple of such)."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    return (
        type(state)(*(map_state(function, x) for x in state))
        if hasattr(state, "_fields")
        else tuple(map_state(function, x) for x in state)
    )


def renew_state(old: State, new: State, fresh: Tensor) -> State:
    """``new`` where ``fresh``, ``old`` elsewhere, row by row."""
    if old is None:
        return None
    if isinstance(old, Tensor):
        return torch.where(fresh.view(-1, *[1] * (old.dim() - 1)), new, old)
    pairs: list[Any] = [renew_state(a, b, fresh) for a, b in zip(old, new, strict=True)]
    return type(old)(*pairs) if hasattr(old, "_fields") else tuple(pairs)
