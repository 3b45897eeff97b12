"""A sampler: a small frozen bundle of parts. Presets with the papers' names live in the package ``samplers``."""

from __future__ import annotations

from dataclasses import dataclass, field

from dlm.errors import SettingsError
from dlm.proposal import Proposer, Statistic
from dlm.protocols import (
    Blocks,
    Budget,
    LogitTransform,
    Part,
    Reviser,
    Score,
    ScoreModifier,
    Selector,
    StopRule,
)


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
        stop: ends a row before its canvas is full.
        reviser: takes committed tokens back.
        guidance: classifier-free guidance scale w, logits u + (w + 1)(c - u); 0 is off. Doubles the forwards.
    """

    name: str
    score: Score
    selector: Selector
    blocks: Blocks
    budget: Budget | None = None
    proposer: Proposer = field(default_factory=Proposer)
    modifiers: tuple[ScoreModifier, ...] = ()
    transforms: tuple[LogitTransform, ...] = ()
    stop: StopRule | None = None
    reviser: Reviser | None = None
    guidance: float = 0.0

    def __post_init__(self) -> None:
        # Hydra hands lists over; parts are kept as tuples so that the bundle stays immutable.
        object.__setattr__(self, "modifiers", tuple(self.modifiers))
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if self.selector.uses_budget and self.budget is None:
            raise SettingsError(
                f"sampler {self.name!r}: {type(self.selector).__name__} commits as many positions as a budget says;"
                " give one (for example samplers.Uniform(tokens_per_step=1))"
            )
        if self.budget is not None and not self.selector.uses_budget:
            raise SettingsError(
                f"sampler {self.name!r}: {type(self.selector).__name__} decides by itself how many positions to commit;"
                f" remove the budget ({type(self.budget).__name__})"
            )
        if not 0.0 <= self.guidance < float("inf"):
            raise SettingsError(f"guidance must be 0 (off) or more, got {self.guidance}")

    @property
    def parts(self) -> dict[str, Part]:
        """Every part by its role, in the order in which a step uses them."""
        numbered: dict[str, Part] = {f"transform{i}": part for i, part in enumerate(self.transforms)}
        numbered |= {"score": self.score}
        numbered |= {f"modifier{i}": part for i, part in enumerate(self.modifiers)}
        optional: dict[str, Part | None] = {"budget": self.budget, "selector": self.selector, "blocks": self.blocks}
        optional |= {"stop": self.stop, "reviser": self.reviser}
        return numbered | {role: part for role, part in optional.items() if part is not None}

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics some part reads; the probability is always taken."""
        needs: frozenset[Statistic] = frozenset({"prob"})
        return needs.union(*(part.needs for part in self.parts.values()))

    @property
    def idle_steps(self) -> int:
        """How many steps of a row may commit nothing; 0 means that every step commits."""
        return max(self.selector.idle_steps, self.budget.idle_steps if self.budget is not None else 0)
