"""The host's account of a row that is being decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from dlm.canvas import Job


@dataclass
class Row:
    """Host-side account of one live row.

    Attributes:
        job: what it was asked to decode.
        open: masked positions left in the row, as of the last synchronisation.
        block_open: masked positions left in its block; 0 means a new block must be opened.
        leaving: whether a rule has just committed all it had.
        reach: positions fed at the next step, ``job.end`` unless the sampler cuts the row off.
        steps, token_forwards: forwards seen so far and positions pushed through the body.
        block_steps: forwards since its block was opened.
        seconds_refresh, seconds_step, seconds_sampler: its share of the time spent in forwards that recomputed whole
            rows for a cache, in other forwards, and outside them.
        cache: what the cache reported of the row at the last step.
    """

    job: Job
    open: int
    block_open: int = 0
    steps: int = 0
    token_forwards: int = 0
    block_steps: int = 0
    seconds_refresh: float = 0.0
    seconds_step: float = 0.0
    seconds_sampler: float = 0.0
    reach: int = 0
    leaving: bool = False
    cache: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reach = self.job.end
