"""The host's account of a row that is being decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dlm.engine.canvas import Job
from dlm.errors import NumericsError, ProgressError
from dlm.words import counted

# A row that needs more forwards than this many per position is going round in circles.
MAX_FORWARDS_PER_POSITION = 4


@dataclass
class Row:
    """Host-side account of one live row.

    Attributes:
        job: what it was asked to decode.
        open: masked positions left in the row, as of the last synchronisation.
        served: whether all that was asked for is filled; masks may be left behind it, in the last attention block.
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
        experts: experts that its forwards reached, summed over layers.
        fed_next: positions its next forward is fed, should it stand in the same block; None: nobody can tell.
        failed: whether it went wrong and leaves the batch without an answer.
        ghost: whether it is a copy of another row that only fills its place in the batch.
        read: the end of the text in which a stop string was last looked for.
        stopped: whether there was one, so that nothing more is decoded.
    """

    job: Job
    open: int
    served: bool = False
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
    experts: int = 0
    fed_next: int | None = None
    failed: bool = False
    ghost: bool = False
    read: int = 0
    stopped: bool = False

    @classmethod
    def of(cls, job: Job) -> Row:
        """A row that begins."""
        return cls(job, sum(place < job.first_end for place in job.writable), visible_end=job.first_end)

    def book(self, status: Mapping[str, int], positions: int) -> None:
        """One forward more, which was fed so many positions. ``status`` is what the device reported: ``open``,
        ``block_open``, and where they apply ``served``, ``fed_next``, ``exiting``, ``visible_end``, ``taken`` (steps
        beyond one) and ``block_steps``."""
        self.open, self.block_open = status["open"], status["block_open"]
        self.served = bool(status.get("served", not self.open))
        self.exiting = bool(status.get("exiting"))
        self.fed_next = status.get("fed_next")
        self.visible_end = min(status.get("visible_end", self.visible_end), self.job.end)
        taken = status.get("taken", 0)
        self.forwards += 1
        self.steps += 1 + taken
        self.block_steps = status.get("block_steps", self.block_steps + 1 + taken)
        if self.drafts:
            self.accepted += [0] * (taken + 1 - len(self.accepted))
            self.accepted[taken] += 1
        self.token_forwards += positions
        self.experts += status.get("experts", 0)

    def look(self, tokens: Sequence[int], mask_id: int, keeps: bool) -> None:
        """Look for a stop string in the tokens before the first mask, of a row that would go on. A sampler that may
        take some of them back (``keeps`` is False) is believed once its block is complete."""
        stops = self.job.stops
        if stops is None or not self.open or self.served or self.exiting or not (keeps or not self.block_open):
            return
        end = tokens.index(mask_id, self.job.start)
        if end > self.read and stops.reached(tokens[self.job.start : end]):
            self.open, self.block_open, self.served, self.stopped = 0, 0, True, True
        self.read = end

    def check(self, broken: bool, held: int, idle: int) -> None:
        """Raise what went wrong: NumericsError where the model produced NaN (``broken``), ProgressError where the row
        does not come to an end, though its blocks may be ``held`` open, and the row ``idle``, for so many steps."""
        if broken:
            raise NumericsError(
                f"prompt {self.job.index}: the model's logits are NaN at step {self.forwards - 1}. Check the"
                " checkpoint, or load it with a wider dtype (dtype=float32)"
            )
        limit = (MAX_FORWARDS_PER_POSITION + held) * len(self.job.writable) + idle
        if self.open and not self.exiting and self.forwards >= limit:
            raise ProgressError(
                f"prompt {self.job.index} still has {counted(self.open, 'masked position')} after"
                f" {counted(self.forwards, 'forward')} ({MAX_FORWARDS_PER_POSITION} per position):"
                " the reviser takes back what was committed; bound it"
            )
