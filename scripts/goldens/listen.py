"""What a run feeds at every forward: a cache that passes on what another one answers, and takes notes."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Int
from torch import Tensor

from cache.dllm import Chosen, Whole
from dlm.engine.interfaces import CacheRun
from dlm.engine.no_cache import CacheAround
from dlm.engine.plan import Branches, BranchPlan, CacheQuery, Feed, ForwardPlan, Layout
from dlm.engine.row import Row
from dlm.engine.step import StepView


@dataclass(frozen=True)
class Call:
    """One forward of one row.

    Attributes:
        fed: the positions it was fed.
        block: the block it was for, ``[start, end)``, as it stood when the forward was over.
        place: forwards of that block before it.
        fresh: for caches of features: which parts were recomputed in every layer, ``prompt`` and ``answer``.
    """

    fed: frozenset[int]
    block: tuple[int, int]
    place: int
    fresh: frozenset[str] | None = None


@dataclass(frozen=True)
class Listening(CacheAround):
    """A cache that does what another one does.

    Attributes:
        heard: filled during the run: job index -> its forwards.
    """

    heard: dict[int, list[Call]] = field(default_factory=dict)

    def open(self, layout: Layout) -> CacheRun:
        """See :class:`dlm.engine.interfaces.Cache`."""
        return _ListeningRun(self.inner.open(layout), self.heard)


class _ListeningRun(CacheRun):
    """:class:`Listening` at work."""

    def __init__(self, inner: CacheRun, heard: dict[int, list[Call]]) -> None:
        self.inner, self.heard = inner, heard
        self.notes: list[tuple[int, frozenset[int], frozenset[str] | None]] = []

    def plan(self, query: CacheQuery) -> ForwardPlan:
        plan = self.inner.plan(query)
        self.notes = []
        for slot, row in enumerate(query.rows):
            fed: set[int] = set()
            for feed, place in _feeds(plan, slot):
                at = feed.positions
                fed |= set(range(feed.tokens.shape[1]) if at is None else at[place].tolist())
            # Fillers stand at the last column of the canvas, and shorter rows are filled up.
            self.notes.append((row.job.index, frozenset(p for p in fed if p < row.visible_end), _fresh(plan, slot)))
        return plan

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        blocks = view.blocks
        bounds = zip(
            blocks.block_start.tolist(),
            blocks.block_end.tolist(),
            blocks.block_step.tolist(),
            strict=True,
        )
        for (index, fed, fresh), (start, end, place) in zip(self.notes, bounds, strict=True):
            self.heard.setdefault(index, []).append(Call(fed, (start, end), place, fresh))
        return self.inner.end(view, chosen)

    def evaluable(self, row: Row) -> int:
        return self.inner.evaluable(row)

    def spread(self, branches: Branches) -> BranchPlan:
        return self.inner.spread(branches)

    def accept(self, kept: Tensor) -> None:
        self.inner.accept(kept)

    def keep(self, slots: list[int]) -> None:
        self.inner.keep(slots)

    def renew(self, slots: list[int]) -> None:
        self.inner.renew(slots)


def _feeds(plan: ForwardPlan, slot: int) -> list[tuple[Feed, int]]:
    """The calls a row is in, and its place in each."""
    found = []
    for feed in plan.feeds:
        slots = list(range(len(plan.counts))) if feed.slots is None else feed.slots.tolist()
        found += [(feed, slots.index(slot))] if slot in slots else []
    return found


def _fresh(plan: ForwardPlan, slot: int) -> frozenset[str] | None:
    """What a cache of features recomputes of a row, read off the memory of the call it is fed in."""
    for feed, row in _feeds(plan, slot):
        if not isinstance(feed.memory, Whole):
            continue
        if not isinstance(feed.memory, Chosen):
            return frozenset({"prompt", "answer"})
        choice = feed.memory.choice
        assert choice is not None
        prompt, answer = choice.answer[row, 0], choice.answer.shape[1]
        parts = {"prompt": bool(choice.always[row, :prompt].all()), "answer": int(choice.count[row]) == answer}
        return frozenset(name for name, whole in parts.items() if whole)
    return None
