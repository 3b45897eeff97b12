"""The roles of a sampler, a cache and a drafter: one base class each.

A part is a frozen dataclass of settings that extends the class of its role. What it remembers between steps it gets
from ``init`` and hands back from ``step``: None, a tensor, or a tuple of such, the row axis first, since rows move.

What a role may offer beyond its one duty is an optional method of the base class, which answers None. A public name
that no role of a part knows is refused when the sampler is built: a misspelt method would be ignored in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.calls import Checked
from dlm.engine.canvas import Canvas
from dlm.engine.plan import Branches, BranchPlan, CacheQuery, ForwardPlan, Layout
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.step import BlockState, LogitRows, RowSize, State, StepView
from dlm.errors import SettingsError

P = TypeVar("P", bound="Part")


class Part(metaclass=Checked):
    """Root of everything a sampler is made of."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics of the proposal it reads beyond the probability: none."""
        return frozenset()

    @property
    def compares_steps(self) -> bool:
        """Whether it holds proposals of this step against those of the last one."""
        return False

    def init(self, canvas: Canvas) -> State:
        """Memory of fresh rows: nothing."""

    def bind(self: P, tokenizer: Any, vocab_size: int) -> P:
        """The same with ids in place of texts. SettingsError: one has no such id, or there is no ``tokenizer``."""
        return self

    def check(self, region: int, block: int) -> None:
        """Raise SettingsError when it does not fit a region of ``region`` positions in blocks of at most ``block``."""

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"] | None:
        """Positions to propose for though they may not be committed now; None: none."""

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        """The most positions a row can have that :meth:`positions_to_score` names or that are eligible, when at most
        ``eligible`` of them are eligible."""
        return eligible

    def forget(self, where: Bool[Tensor, "B W"], state: State) -> State:
        """The memory after the positions ``where`` were remasked."""
        return state


class Score(Part):
    """How sure the model is of each proposal."""

    @property
    def non_negative(self) -> bool:
        """Whether no score is below 0, so that scaling one down lowers it."""
        return False

    @property
    def order_known(self) -> bool:
        """Whether the answer does not depend on the proposals."""
        return False

    @property
    def of_proposals(self) -> bool:
        """Whether a position's score is read off its proposal and nothing else."""
        return False

    def step(self, view: StepView, state: State) -> tuple[Float[Tensor, "B N"], State]:
        """Scores, higher is surer. Entries that are not eligible are ignored."""
        raise NotImplementedError


class ScoreModifier(Part):
    """A change to the scores (an end-token policy, a position prior)."""

    @property
    def scales(self) -> bool:
        """Whether it multiplies scores with factors below 1."""
        return False

    def step(self, view: StepView, state: State) -> tuple[Float[Tensor, "B N"], State]:
        """New scores, from ``view.scores``."""
        raise NotImplementedError


class BlockSchedule(Part):
    """Which span of a row may be filled now."""

    def longest(self, region: int) -> int:
        """The most positions one block can have in a region of so many. SettingsError: it does not fit such a one."""
        raise NotImplementedError

    def most_open(self, region: int) -> int:
        """The most open positions one block can hold; as many as it has, unless it moves."""
        return self.longest(region)

    def step(self, canvas: Canvas, state: State) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], State]:
        """``(start, end)`` of the block each row fills next; called when some row has finished its block. Rows in
        the middle of a block keep theirs, whatever is answered for them."""
        raise NotImplementedError

    def narrow(
        self, view: StepView, opened: Bool[Tensor, " B"], state: State
    ) -> tuple[Int[Tensor, " B"], State] | None:
        """The end of the block of each row in ``opened``, settled after the forward (AdaBlock) and at most what
        ``step`` answered; others are ignored. None: ``step`` has settled it."""

    def move(
        self, canvas: Canvas, blocks: BlockState, state: State
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], State] | None:
        """``(start, end)`` of each row's open block at every step but its first, so that it may move; never longer than
        :meth:`longest`. None: blocks stay where they were opened."""

    def open_positions(
        self, canvas: Canvas, start: Int[Tensor, " B"], end: Int[Tensor, " B"]
    ) -> Bool[Tensor, "B W"] | None:
        """Which positions of ``[start, end)`` may be filled (several blocks at once); None: all of them. A span with
        masks must have an open one."""

    def within(self, attention_block: int) -> BlockSchedule:
        """The schedule for attention in blocks of so many positions, counted from position 0: each of its own lies
        inside one, since a position does not see what comes behind. SettingsError: there is none."""
        raise SettingsError(
            f"blocks={type(self).__name__} may reach behind the block that is being filled, and this model's attention"
            f" has blocks of {attention_block} positions: use blocks=aligned"
        )

    def starting_length(self, region: int) -> int | None:
        """How many of ``region`` generated positions a row begins with; None: all of them."""

    def grow(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[Growth, State] | None:
        """How the row grows behind this step, from what its forward showed and what was ``chosen``, which is not
        committed yet; None: it does not."""


class Growth(NamedTuple):
    """Masks that are put into a row.

    Attributes:
        at: the position before which they come; at the end of the row they are appended. ``[B]``
        length: how many, within what the row was admitted with; below 0: masks taken off its end again. ``[B]``
        hold: rows whose step commits nothing, of those that grow by it. ``[B]``
    """

    at: Int[Tensor, " B"]
    length: Int[Tensor, " B"]
    hold: Bool[Tensor, " B"]


class _Planned(Part):
    """What a budget and a selector have in common."""

    @property
    def idle_steps(self) -> int:
        """How many steps of a row may commit nothing because the rule itself guarantees the end; 0: none may."""
        return 0

    @property
    def order_known(self) -> bool:
        """Whether the answer does not depend on the proposals."""
        return False

    @property
    def plans_blocks(self) -> bool:
        """Whether it lays a plan over each block when it is opened, so that blocks must stay as they are."""
        return False

    @property
    def block_schedules(self) -> tuple[type[BlockSchedule], ...] | None:
        """The schedules it goes with, where it plans the whole canvas itself; None: any."""


class Selector(_Planned):
    """Which eligible positions are committed."""

    @property
    def uses_budget(self) -> bool:
        """Whether ``view.budget`` is read; a budget given to a selector that does not is refused."""
        return False

    @property
    def best_first(self) -> bool:
        """Whether it commits the best by score, as many as the budget says, and no others."""
        return False

    @property
    def always_commits(self) -> bool:
        """Whether it chooses one in every row where one is eligible and its budget allows it; else the decoder does."""
        return False

    @property
    def timeless(self) -> bool:
        """Whether it goes by scores and proposals alone, at the first step as at the last."""
        return False

    @property
    def rewrites(self) -> bool:
        """Whether it may choose committed positions of the active block too: they get the present proposal."""
        return False

    def step(self, view: StepView, state: State) -> tuple[Bool[Tensor, "B N"], State]:
        """True where to commit; the decoder commits the best eligible one of a row that would commit nothing."""
        raise NotImplementedError

    def accepted(self, view: StepView) -> Bool[Tensor, "B N"] | None:
        """The positions it chooses for their own sake, and not only so that there is progress, from what :meth:`step`
        is shown; None: it makes no difference."""

    @property
    def most_held(self) -> int:
        """How many steps a block may be held open."""
        return 0

    def holds(self, state: State) -> Bool[Tensor, " B"] | None:
        """Rows whose block stays open behind its last mask, by the memory after a step (it rewrites); None: none."""

    def visible_end(self, canvas: Canvas, state: State) -> Int[Tensor, " B"] | None:
        """The end of what each row is fed next (SlowFast), at or behind what may be committed then; None: its own."""


class Budget(_Planned):
    """How many positions a step commits."""

    @property
    def each(self) -> int | None:
        """The number, at least 1, where every step has the same; None: it depends."""

    def step(self, view: StepView, state: State) -> tuple[Int[Tensor, " B"], State]:
        """Positions to commit in this step, per row."""
        raise NotImplementedError


class LogitTransform(Part):
    """Logits to logits (bans, credit); runs on chunks of rows after guidance, before the proposal."""

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: State) -> tuple[Float[Tensor, "R V"], State]:
        """New logits; the input may be overwritten. A state tensor must not be written to: the step may be taken
        again."""
        raise NotImplementedError


class EarlyExit(Part):
    """When everything that is left is committed at once (Prophet, SchED)."""

    def step(self, view: StepView, state: State) -> tuple[Bool[Tensor, " B"], State]:
        """True for rows whose every masked position, in the block or behind it, is committed from this forward."""
        raise NotImplementedError


class StopRule(Part):
    """When a row is finished before its canvas is full."""

    @property
    def asks_accepted(self) -> bool:
        """Whether :meth:`new_end` reads ``view.accepted``."""
        return False

    def after_block(self, canvas: Canvas, blocks: BlockState, closed: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        """For rows whose block is complete (``closed``): the id that everything still masked is filled with,
        or -1 to go on."""
        raise NotImplementedError

    def new_end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> Int[Tensor, " B"] | None:
        """The new end of each row, absolute and exclusive, where what lies behind the end of the text is taken away
        while the rest of the row is still open; ``view.canvas.end`` to go on. ``view.canvas`` holds what this step has
        ``chosen`` already. A row that has chosen nothing may be one whose step was not taken. None: it never cuts."""


class Reviser(Part):
    """Which committed positions are taken back (WINO, Saber, ReMDM)."""

    @property
    def partners(self) -> tuple[type[Part], ...]:
        """Selectors or budgets of which one must be there, because it bounds what is taken back; none: any will do."""
        return ()

    def fits(self, partner: Any) -> str | None:
        """Why the partner's settings and its own do not go together; None: they do."""

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[Bool[Tensor, "B W"], State]:
        """Canvas positions to mask again; ``chosen`` is what this step has committed: ``view.canvas`` holds it."""
        raise NotImplementedError


class Cache(metaclass=Checked):
    """Which positions are recomputed at a step, and what stands in for the others. Settings only."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics of the proposal the cache reads."""
        return frozenset()

    @property
    def stores(self) -> bool:
        """Whether it keeps keys and values, which the model must then let it do."""
        return False

    @property
    def asks_ahead(self) -> bool:
        """Whether :meth:`CacheRun.plan` reads ``query.upcoming``."""
        return False

    @property
    def schedule_known(self) -> bool:
        """Whether what a step feeds follows from the row's tokens, its block state and its steps (drafts need it)."""
        return False

    @property
    def feeds_alike(self) -> bool:
        """Whether every step of a block that is no refresh is fed the same positions (:mod:`dlm.engine.static`)."""
        return False

    @property
    def exact(self) -> bool:
        """Whether feeding more positions changes nothing for the others."""
        return False

    @property
    def spans_blocks(self) -> bool:
        """Whether a block begins without everything being recomputed, so that drafts may reach into the next one."""
        return False

    def check(self, sampler: Any, description: Any) -> None:
        """Raise SettingsError when it does not go with a sampler, or with the model's description."""

    def open(self, layout: Layout) -> CacheRun:
        """What the cache remembers during one run."""
        raise NotImplementedError


class CacheRun:
    """A cache at work on one batch."""

    def plan(self, query: CacheQuery) -> ForwardPlan:
        """The forward of this step. Asked again when the step ran out of memory; nothing may have changed then."""
        raise NotImplementedError

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        """The step is done and ``view.canvas`` holds its commits. What is returned reaches the host with the step's
        one synchronisation, as ``row.cache``."""
        raise NotImplementedError

    def foresee(self, query: CacheQuery) -> Int[Tensor, " B"] | None:
        """Positions the next step will be fed, should it ask ``query`` (its ``rows`` have not heard of this step yet):
        told with this step's report, so that :meth:`plan` need not wait. None: that is known only then."""

    def evaluable(self, row: Row) -> int:
        """How many of the row's drafts (``row.ahead``) its next forward can evaluate: those before the next one at
        which everything is recomputed."""
        raise NotImplementedError

    def spread(self, branches: Branches) -> BranchPlan:
        """The forward just planned, for several branches of every row. Nothing is kept for now."""
        raise NotImplementedError

    def accept(self, kept: Int[Tensor, " B"]) -> None:
        """Keep what these branches computed, and those they follow, as if they alone had been fed in turn."""
        raise NotImplementedError

    def keep(self, slots: list[int]) -> None:
        """Row compaction: only ``slots`` stay, in that order."""
        raise NotImplementedError

    def renew(self, slots: list[int]) -> None:
        """Fresh rows have moved into ``slots``."""
        raise NotImplementedError


class Speculator(metaclass=Checked):
    """Decides how a step is taken, in place of the plain one: drafts, what-if forwards."""

    def clashes(self, sampler: Any) -> str | None:
        """Why it does not go with the parts of a :class:`dlm.engine.sampler.Sampler`; None: it does."""

    def goes_with(self, sampler: Any, cache: Cache, description: Any) -> None:
        """Raise SettingsError when it does not go with a sampler, the cache, or the model's description."""

    def stepper(self, tools: Any) -> Any:
        """A :class:`dlm.engine.stepper.Stepper` for one run, over its :class:`dlm.engine.stepper.StepTools`."""
        raise NotImplementedError


def offers(part: object, method: Callable[..., Any]) -> bool:
    """Whether a part overrides an optional ``method`` of its role: ``offers(stop, StopRule.new_end)``."""
    return getattr(type(part), method.__name__, method) is not method
