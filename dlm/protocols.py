"""What a sampler part, a cache and a drafter must offer. Nothing here does anything.

A part holds settings only. What it remembers between steps it gets from ``init`` and hands back from ``step``: None,
a tensor, or a tuple of tensors, every one with the row axis first, so that rows can leave, move and join at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.canvas import Canvas
from dlm.proposal import Statistic
from dlm.view import Clock, StepView

State = Any


@runtime_checkable
class Part(Protocol):
    """Settings plus explicit memory; the common root of everything a sampler is made of."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics of the proposal the part reads."""
        ...

    def init(self, canvas: Canvas) -> State:
        """Memory of fresh rows."""
        ...


@runtime_checkable
class Score(Part, Protocol):
    """How sure the model is of each proposal."""

    def step(self, view: StepView, state: State) -> tuple[Float[Tensor, "B N"], State]:
        """Scores, higher is surer. Entries that are not eligible are ignored."""
        ...


@runtime_checkable
class ScoreModifier(Part, Protocol):
    """A change to the scores (an end-token policy, a position prior)."""

    def step(self, view: StepView, state: State) -> tuple[Float[Tensor, "B N"], State]:
        """New scores, from ``view.scores``."""
        ...


@runtime_checkable
class Selector(Part, Protocol):
    """Which eligible positions are committed."""

    @property
    def uses_budget(self) -> bool:
        """Whether ``view.budget`` is read; a budget given to a selector that does not is refused."""
        ...

    @property
    def idle_steps(self) -> int:
        """How many steps may commit nothing because the rule itself guarantees the end; 0: none may."""
        ...

    def step(self, view: StepView, state: State) -> tuple[Bool[Tensor, "B N"], State]:
        """True where to commit. The decoder intersects with the eligible positions, and commits the best one
        of a row that would otherwise commit nothing."""
        ...


@runtime_checkable
class Budget(Part, Protocol):
    """How many positions a step commits."""

    @property
    def idle_steps(self) -> int:
        """How many steps may commit nothing because the schedule itself guarantees the end; 0: none may."""
        ...

    def check(self, region: int, block: int) -> None:
        """Raise SettingsError when the budget does not fit a region of ``region`` positions filled in blocks of
        at most ``block``."""
        ...

    def step(self, view: StepView, state: State) -> tuple[Int[Tensor, " B"], State]:
        """Positions to commit in this step, per row."""
        ...


@runtime_checkable
class Blocks(Part, Protocol):
    """Which span of a row may be filled now."""

    def longest(self, region: int) -> int:
        """The most positions one block can have when the longest generated region has ``region`` positions.
        Raises SettingsError when the schedule does not fit such a region."""
        ...

    def step(self, canvas: Canvas, state: State) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], State]:
        """``(start, end)`` of the block each row fills next; called when some row has finished its block. Rows in
        the middle of a block keep theirs, whatever is answered for them."""
        ...


@dataclass(frozen=True)
class LogitRows:
    """Which row and position each line of a chunk of logits belongs to.

    Attributes:
        canvas: the canvas the rows are of.
        row, position: canvas row and absolute position of each line. ``[R]``
    """

    canvas: Canvas
    row: Int[Tensor, " R"]
    position: Int[Tensor, " R"]


@runtime_checkable
class LogitTransform(Part, Protocol):
    """Logits to logits (bans, credit); runs on chunks of rows after guidance, before the proposal."""

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: State) -> tuple[Float[Tensor, "R V"], State]:
        """New logits; the input may be overwritten."""
        ...


@runtime_checkable
class StopRule(Part, Protocol):
    """When a row is finished before its canvas is full."""

    def after_block(self, canvas: Canvas, clock: Clock, closed: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        """For rows whose block is complete (``closed``): the id that everything still masked is filled with,
        or -1 to go on."""
        ...


@runtime_checkable
class Reviser(Part, Protocol):
    """Which committed positions are taken back (WINO, Saber, ReMDM)."""

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[Bool[Tensor, "B W"], State]:
        """Canvas positions to mask again; ``chosen`` is what this step has just committed."""
        ...


@dataclass(frozen=True)
class ForwardPlan:
    """What one forward is fed and where logits are wanted.

    Attributes:
        tokens: the fed tokens. ``[B, T]``
        positions: their absolute positions, any order; None means ``0 .. T-1``. ``[B, T]``
        valid: which fed entries may be attended to; None means all. ``[B, T]``
        wanted: absolute positions to score. ``[B, N]``
    """

    tokens: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"] | None
    valid: Bool[Tensor, "B T"] | None
    wanted: Int[Tensor, "B N"]


@runtime_checkable
class Cache(Protocol):
    """Which positions are fed at a step (and, later, which stored keys stand in for the others)."""

    def plan(self, canvas: Canvas, wanted: Int[Tensor, "B N"], ends: list[int]) -> ForwardPlan:
        """The forward of this step. ``ends`` are the row ends on the host."""
        ...
