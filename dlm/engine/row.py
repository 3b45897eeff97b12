"""The host's account of a row that is being decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from dlm.engine.canvas import Job


@dataclass
class Row:
    """Host-side account of one live row.

    Attributes:
        job: what it was asked to decode.
        open: masked positions left in the row, as of the last synchronisation.
        block_open: masked positions left in its block; 0 means a new block must be opened.
        exiting: whether a rule has just committed all it had.
        visible_end: positions fed at the next step: the row's end, unless the sampler cuts the row off.
        forwards, token_forwards: forwards seen so far and positions pushed through the body.
        steps: steps of the sampler; more than forwards when drafts were accepted.
        block_steps: those since its block was opened.
        seconds_refresh, seconds_step, seconds_sampler: its share of the time spent in forwards that recomputed whole
            rows for a cache, in other forwards, and outside them.
        ahead: drafts at hand for its next forward, those that come first in front: the steps and the block's steps the
            row would have taken by then.
        drafts: states its last forward evaluated beside its own.
        accepted: how many forwards accepted 0, 1, 2, ... drafts, of those that had any.
        cache: what the cache reported of the row at the last step.
        fed_next: positions its next forward is fed, should it stand in the same block; None: nobody can tell.
        failed: whether it went wrong and leaves the batch without an answer.
        ghost: whether it is a copy of another row that only fills its place in the batch.
    """

    job: Job
    open: int
    block_open: int = 0
    forwards: int = 0
    steps: int = 0
    token_forwards: int = 0
    block_steps: int = 0
    seconds_refresh: float = 0.0
    seconds_step: float = 0.0
    seconds_sampler: float = 0.0
    visible_end: int = 0
    exiting: bool = False
    ahead: list[tuple[int, int]] = field(default_factory=list)
    drafts: int = 0
    accepted: list[int] = field(default_factory=list)
    cache: dict[str, int] = field(default_factory=dict)
    fed_next: int | None = None
    failed: bool = False
    ghost: bool = False

    @classmethod
    def of(cls, job: Job) -> Row:
        """A row that begins."""
        return cls(job, sum(place < job.first_end for place in job.writable), visible_end=job.first_end)
