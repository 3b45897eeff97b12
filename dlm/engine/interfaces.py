"""What a sampler part, a cache and a drafter must offer. Nothing here does anything.

A part holds settings only. What it remembers between steps it gets from ``init`` and hands back from ``step``: None,
a tensor, or a tuple of tensors, every one with the row axis first, so that rows can leave, move and join at any time.

The first half are the roles of a sampler. The second half are abilities that any part may have beside its role: the
decoder looks for the method, so a part without it need not mention it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.branches import Branches, BranchPlan
from dlm.engine.canvas import Canvas
from dlm.engine.plan import CacheQuery, ForwardPlan, Layout
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.step import BlockState, StepView

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

    @property
    def non_negative(self) -> bool:
        """Whether no score is below 0, so that scaling one down lowers it."""
        ...

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
        canvas, blocks: the canvas and the clock the rows are of.
        row, position: canvas row and absolute position of each line. ``[R]``
        eligible: whether the position may be committed at this step; False where a part only looks. ``[R]``
    """

    canvas: Canvas
    blocks: BlockState
    row: Int[Tensor, " R"]
    position: Int[Tensor, " R"]
    eligible: Bool[Tensor, " R"]

    def part(self, chunk: slice) -> LogitRows:
        """The lines of a chunk."""
        return LogitRows(self.canvas, self.blocks, self.row[chunk], self.position[chunk], self.eligible[chunk])


@runtime_checkable
class LogitTransform(Part, Protocol):
    """Logits to logits (bans, credit); runs on chunks of rows after guidance, before the proposal."""

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: State) -> tuple[Float[Tensor, "R V"], State]:
        """New logits; the input may be overwritten. A state tensor must not be written to: the step may be taken
        again."""
        ...


@runtime_checkable
class EarlyExit(Part, Protocol):
    """When everything that is left is committed at once (Prophet, SchED)."""

    def step(self, view: StepView, state: State) -> tuple[Bool[Tensor, " B"], State]:
        """True for rows whose every masked position, in the block or behind it, is committed from this forward."""
        ...


@runtime_checkable
class StopRule(Part, Protocol):
    """When a row is finished before its canvas is full."""

    def after_block(self, canvas: Canvas, blocks: BlockState, closed: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        """For rows whose block is complete (``closed``): the id that everything still masked is filled with,
        or -1 to go on."""
        ...


@runtime_checkable
class Reviser(Part, Protocol):
    """Which committed positions are taken back (WINO, Saber, ReMDM)."""

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[Bool[Tensor, "B W"], State]:
        """Canvas positions to mask again; ``chosen`` is what this step has just committed, and ``view.canvas`` holds it
        already."""
        ...


# Abilities a part may have beside its role.


@runtime_checkable
class Checks(Protocol):
    """A part that can say before the run that it does not fit the jobs."""

    def check(self, region: int, block: int) -> None:
        """Raise SettingsError when the part does not fit a generated region of ``region`` positions filled in blocks
        of at most ``block``."""
        ...


@runtime_checkable
class Binds(Protocol):
    """A part with settings that only the model's tokenizer can turn into ids."""

    def bind(self, tokenizer: Any, vocab_size: int) -> Any:
        """The same part with ids in place of texts. Raises SettingsError for a text that has no such id, or when
        ``tokenizer`` is None and it needs one."""
        ...


@dataclass(frozen=True)
class RowSize:
    """The largest sizes of the rows of a batch, known on the host.

    Attributes:
        region: generated positions.
        block: positions of a block.
        row: positions in all.
    """

    region: int
    block: int
    row: int


@runtime_checkable
class Looks(Protocol):
    """A part that wants proposals at positions that may not be committed now."""

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        """The positions."""
        ...

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        """The most positions a row can have that :meth:`positions_to_score` names or that are eligible, when at most
        ``eligible`` of them are eligible."""
        ...


@runtime_checkable
class Narrows(Protocol):
    """A block schedule that settles the end of a block after it has seen a forward (AdaBlock)."""

    def narrow(self, view: StepView, opened: Bool[Tensor, " B"], state: State) -> tuple[Int[Tensor, " B"], State]:
        """The end of the block of each row in ``opened``, at most what ``step`` answered; others are ignored."""
        ...


@runtime_checkable
class Rewrites(Protocol):
    """A selector that may choose committed positions of the active block too: they get the present proposal."""

    @property
    def rewrites(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class Forgets(Protocol):
    """A part whose memory of a position ends when the position is masked again."""

    def forget(self, where: Bool[Tensor, "B W"], state: State) -> State:
        """The memory after the positions ``where`` were remasked."""
        ...


@runtime_checkable
class CutsOff(Protocol):
    """A part that lets the model see a row only up to some position (SlowFast's fast phase)."""

    def reach(self, canvas: Canvas, state: State) -> Int[Tensor, " B"]:
        """The end of what is fed of each row at its next step; at least the end of what may be committed there."""
        ...


@runtime_checkable
class CutsShort(Protocol):
    """A stop rule that takes away what lies behind the end of the text, while the rest of the row is still open
    (end-of-text prediction)."""

    @property
    def asks_accepted(self) -> bool:
        """Whether it reads ``view.accepted``."""
        ...

    def cut(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> Int[Tensor, " B"]:
        """The new end of each row, absolute and exclusive; ``view.canvas.end`` to go on. ``view.canvas`` holds what
        this step has ``chosen`` already. A row that has chosen nothing may be one whose step was not taken."""
        ...


@runtime_checkable
class Accepts(Protocol):
    """A selector that accepts some positions for their own sake and commits others only so that there is progress."""

    def accepted(self, view: StepView) -> Bool[Tensor, "B N"]:
        """The accepted ones, from what :meth:`Selector.step` is shown."""
        ...


@runtime_checkable
class Cache(Protocol):
    """Which positions are recomputed at a step, and what stands in for the others. Settings only."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics of the proposal the cache reads."""
        ...

    @property
    def stores(self) -> bool:
        """Whether it keeps keys and values, which the model must then let it do."""
        ...

    @property
    def asks_ahead(self) -> bool:
        """Whether :meth:`CacheRun.plan` reads ``now.upcoming``."""
        ...

    @property
    def schedule_known(self) -> bool:
        """Whether what a step feeds follows from the row's tokens, its clock and its count of steps (drafts need
        that)."""
        ...

    @property
    def spans_blocks(self) -> bool:
        """Whether a block begins without everything being recomputed, so that drafts may reach into the next one."""
        ...

    def check(self, sampler: Any, description: Any) -> None:
        """Raise SettingsError when the cache does not go with a :class:`dlm.engine.sampler.Sampler`, or with the
        model's :class:`dlm.models.backbone.ModelDescription`."""
        ...

    def open(self, layout: Layout) -> CacheRun:
        """What the cache remembers during one run."""
        ...


@runtime_checkable
class CacheRun(Protocol):
    """A cache at work on one batch."""

    def plan(self, now: CacheQuery) -> ForwardPlan:
        """The forward of this step. Asked again when the step ran out of memory; nothing may have changed then."""
        ...

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        """The step is done and ``view.canvas`` holds its commits. What is returned reaches the host with the step's
        one synchronisation, as ``row.cache``."""
        ...

    def evaluable(self, row: Row) -> int:
        """How many of the row's drafts (``row.ahead``) its next forward can evaluate: those before the next one at
        which everything is recomputed."""
        ...

    def spread(self, versions: Branches) -> BranchPlan:
        """The forward just planned, for several versions of every row. Nothing is kept for now."""
        ...

    def accept(self, kept: Int[Tensor, " B"]) -> None:
        """Keep what these versions computed, and those they follow, as if they alone had been fed, one after the
        other."""
        ...

    def keep(self, slots: list[int]) -> None:
        """Row compaction: only ``slots`` stay, in that order."""
        ...

    def renew(self, slots: list[int]) -> None:
        """Fresh rows have moved into ``slots``."""
        ...
