"""A sampler: a small frozen bundle of parts. Presets with the papers' names live in the package ``samplers``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from dlm.engine.interfaces import (
    Binds,
    Blocks,
    Budget,
    EarlyExit,
    LogitTransform,
    Part,
    Reviser,
    Rewrites,
    Score,
    ScoreModifier,
    Selector,
    StopRule,
)
from dlm.engine.legality import refuse_illegal
from dlm.engine.proposal import Proposer, Statistic
from dlm.errors import SettingsError

# What makes a step of a sampler dearer than its arithmetic, by the statistic that needs it.
_COSTS: dict[Statistic, str] = {
    "kl": "second head pass",
    "shadow": "longer forward",
    "attention": "attention maps",
}


@dataclass(frozen=True)
class Sampler:
    """Which masked tokens are committed at each step, as parts that can be exchanged one by one.

    Attributes:
        name: what it is called in tables and traces.
        score: how sure the model is of each proposal.
        selector: which eligible positions are committed.
        blocks: which span may be filled now.
        budget: how many positions a step commits; None when the selector decides by itself.
        proposer: how a token is taken from the logits.
        modifiers: changes to the scores, in order.
        transforms: changes to the logits, in order, after guidance.
        exit: commits everything that is left at once.
        stop: ends a row before its canvas is full.
        reviser: takes committed tokens back.
        lookahead: a :class:`dlm.speculation.lookahead.Lookahead`: continuations that are fed beside the row.
        guidance: classifier-free guidance scale w, logits u + (w + 1)(c - u); 0 is off. Doubles the forwards.

    Raises:
        SettingsError: parts that do not go together (specs/samplers.md 4.4), with the reason.
    """

    name: str
    score: Score
    selector: Selector
    blocks: Blocks
    budget: Budget | None = None
    proposer: Proposer = field(default_factory=Proposer)
    modifiers: Sequence[ScoreModifier] = ()
    transforms: Sequence[LogitTransform] = ()
    exit: EarlyExit | None = None
    stop: StopRule | None = None
    reviser: Reviser | None = None
    lookahead: Any = None
    guidance: float = 0.0

    def __post_init__(self) -> None:
        # Hydra hands lists over; parts are kept as tuples so that the bundle stays immutable.
        object.__setattr__(self, "modifiers", tuple(self.modifiers))
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if not 0.0 <= self.guidance < float("inf"):
            raise SettingsError(f"guidance must be 0 (off) or more, got {self.guidance}")
        refuse_illegal(self)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Every part by its role, in the order in which a step uses them."""
        numbered: dict[str, Part] = {f"transform{i}": part for i, part in enumerate(self.transforms)}
        numbered |= {"score": self.score}
        numbered |= {f"modifier{i}": part for i, part in enumerate(self.modifiers)}
        optional: dict[str, Part | None] = {"budget": self.budget, "selector": self.selector, "blocks": self.blocks}
        optional |= {"exit": self.exit, "stop": self.stop, "reviser": self.reviser}
        return numbered | {role: part for role, part in optional.items() if part is not None}

    def able(self, ability: Any) -> list[Any]:
        """The parts that have an ability of :mod:`dlm.engine.interfaces`."""
        return [part for part in self.parts.values() if isinstance(part, ability)]

    def bind(self, tokenizer: Any, vocab_size: int) -> Sampler:
        """The sampler with every text of its settings turned into ids of this tokenizer (None: there is none).

        Raises:
            SettingsError: a text without such an id.
        """

        def bound(part: Any) -> Any:
            if isinstance(part, tuple):
                return tuple(bound(p) for p in part)
            return part.bind(tokenizer, vocab_size) if isinstance(part, Binds) else part

        if not self.able(Binds):
            return self
        roles = [f.name for f in fields(self) if f.name not in ("name", "proposer", "guidance")]
        return replace(self, **{role: bound(getattr(self, role)) for role in roles})

    @cached_property
    def needs(self) -> frozenset[Statistic]:
        """Statistics some part reads; the probability is always taken."""
        needs: frozenset[Statistic] = frozenset({"prob"})
        return needs.union(*(part.needs for part in self.parts.values()))

    @cached_property
    def idle_steps(self) -> int:
        """How many steps of a row may commit nothing; 0 means that every step commits."""
        return max(self.selector.idle_steps, self.budget.idle_steps if self.budget is not None else 0)

    @cached_property
    def rewrites(self) -> bool:
        """Whether the selector may replace tokens that are committed already."""
        return isinstance(self.selector, Rewrites) and self.selector.rewrites

    @cached_property
    def order_known(self) -> bool:
        """Whether the positions of a step are known before its forward: a random order with a fixed budget."""
        parts = [self.score, self.selector, *([self.budget] if self.budget is not None else [])]
        plain = not self.modifiers and self.lookahead is None and not self.rewrites
        return plain and all(getattr(part, "order_known", False) for part in parts)

    @cached_property
    def compares_steps(self) -> bool:
        """Whether a part holds proposals of a step against those of the step before (KLASS, CCD)."""
        return "kl" in self.needs or any(getattr(part, "compares_steps", False) for part in self.parts.values())

    @property
    def extra_cost(self) -> str:
        """Why a step costs more than its arithmetic, in two or three words; empty when it does not."""
        reasons = [text for statistic, text in _COSTS.items() if statistic in self.needs]
        reasons += ["several branches"] if self.lookahead is not None else []
        return ", ".join(reasons)
