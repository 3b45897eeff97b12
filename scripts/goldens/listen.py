"""What a run feeds at every forward: a cache that passes on what another one answers, and takes notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from dlm.plan import ForwardPlan, Layout, Now
from dlm.proposal import Statistic
from dlm.protocols import Cache, CacheRun
from dlm.view import StepView


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
class Listening:
    """A cache that does what ``inner`` does.

    Attributes:
        inner: the cache at work.
        heard: filled during the run: job index -> its forwards.
    """

    inner: Cache
    heard: dict[int, list[Call]] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[Statistic]:
        """See :class:`dlm.protocols.Cache`."""
        return self.inner.needs

    @property
    def asks_ahead(self) -> bool:
        """See :class:`dlm.protocols.Cache`."""
        return self.inner.asks_ahead

    def check(self, sampler: Any, description: Any) -> None:
        """See :class:`dlm.protocols.Cache`."""
        self.inner.check(sampler, description)

    def open(self, layout: Layout) -> CacheRun:
        """See :class:`dlm.protocols.Cache`."""
        return _ListeningRun(self.inner.open(layout), self.heard)


class _ListeningRun:
    """:class:`Listening` at work."""

    def __init__(self, inner: CacheRun, heard: dict[int, list[Call]]) -> None:
        self.inner, self.heard = inner, heard
        self.notes: list[tuple[int, frozenset[int], frozenset[str] | None]] = []

    def plan(self, now: Now) -> ForwardPlan:
        plan = self.inner.plan(now)
        self.notes = []
        for slot, row in enumerate(now.rows):
            places = range(row.reach) if plan.fed is None else plan.fed[slot].nonzero().flatten().tolist()
            self.notes.append((row.job.index, frozenset(places), _fresh(plan, slot)))
        return plan

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        clock = view.clock
        bounds = zip(clock.block_start.tolist(), clock.block_end.tolist(), clock.block_step.tolist(), strict=True)
        for (index, fed, fresh), (start, end, place) in zip(self.notes, bounds, strict=True):
            self.heard.setdefault(index, []).append(Call(fed, (start, end), place, fresh))
        return self.inner.end(view, chosen)

    def keep(self, slots: list[int]) -> None:
        self.inner.keep(slots)

    def renew(self, slots: list[int]) -> None:
        self.inner.renew(slots)


def _fresh(plan: ForwardPlan, slot: int) -> frozenset[str] | None:
    """What a cache of features recomputes of a row, read off the memory of the call it is fed in."""
    for feed in plan.feeds:
        slots = range(len(plan.counts)) if feed.slots is None else feed.slots.tolist()
        if slot not in slots or not hasattr(feed.memory, "owner") or not hasattr(feed.memory, "places"):
            continue
        choice = getattr(feed.memory, "choice", None)
        if choice is None:
            return frozenset({"prompt", "answer"})
        row = list(slots).index(slot)
        parts = {"prompt": bool(choice.always[row].any()), "answer": int(choice.count[row]) == choice.answer.shape[1]}
        return frozenset(name for name, whole in parts.items() if whole)
    return None
