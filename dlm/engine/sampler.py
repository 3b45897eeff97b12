"""A sampler: a small frozen bundle of parts, and which of them go together.

Presets with the papers' names live in the package ``samplers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

from dlm.engine.calls import Checked
from dlm.engine.constraint import Constraint
from dlm.engine.interfaces import (
    BlockSchedule,
    Budget,
    EarlyExit,
    LogitTransform,
    Part,
    Reviser,
    Score,
    ScoreModifier,
    Selector,
    Speculator,
    StopRule,
    offers,
)
from dlm.engine.proposal import Proposer, Statistic
from dlm.errors import SettingsError
from dlm.words import meant

# What makes a step of a sampler dearer than its arithmetic, by the statistic that needs it.
_COSTS: dict[Statistic, str] = {
    "kl": "second head pass",
    "shadow": "longer forward",
    "attention": "attention maps",
}


@dataclass(frozen=True)
class Sampler(metaclass=Checked):
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
        probe: asks the model about versions of a row beside the row itself (:class:`dlm.speculation.probes.Probe`).
        constraint: what every answer must be (:class:`samplers.Regex`, :class:`samplers.JsonSchema`).
        guidance: classifier-free guidance scale w, logits u + (w + 1)(c - u); 0 is off. Doubles the forwards.
        guidance_remask: what u is of. 0: of the row without its prompt; above 0: of the row with this share of its
            committed tokens masked again, those the model is least sure of (:mod:`dlm.engine.guidance`).

    Raises:
        SettingsError: a part that is none of its role, or parts that do not go together; with the reason.
    """

    name: str
    score: Score
    selector: Selector
    blocks: BlockSchedule
    budget: Budget | None = None
    proposer: Proposer = field(default_factory=Proposer)
    modifiers: Sequence[ScoreModifier] = ()
    transforms: Sequence[LogitTransform] = ()
    exit: EarlyExit | None = None
    stop: StopRule | None = None
    reviser: Reviser | None = None
    probe: Any = None
    constraint: Constraint | None = None
    guidance: float = 0.0
    guidance_remask: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.guidance < float("inf"):
            raise SettingsError(f"guidance must be 0 (off) or more, got {self.guidance}")
        if not 0.0 <= self.guidance_remask <= 1.0:
            raise SettingsError(f"guidance_remask is a share and must be in [0, 1], got {self.guidance_remask}")
        for reason in _refusals(self):
            raise SettingsError(f"sampler {self.name!r}: {reason}")

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Every part by its role, in the order in which a step uses them."""
        numbered: dict[str, Part] = {f"transform{i}": part for i, part in enumerate(self.transforms)}
        numbered |= {"score": self.score}
        numbered |= {f"modifier{i}": part for i, part in enumerate(self.modifiers)}
        optional: dict[str, Part | None] = {"budget": self.budget, "selector": self.selector, "blocks": self.blocks}
        optional |= {"exit": self.exit, "stop": self.stop, "reviser": self.reviser, "probe": self.probe}
        optional |= {"constraint": self.constraint}
        return numbered | {role: part for role, part in optional.items() if part is not None}

    def bind(self, tokenizer: Any, vocab_size: int) -> Sampler:
        """The sampler with every text of its settings turned into ids of this tokenizer (None: there is none).

        Raises:
            SettingsError: a text without such an id.
        """

        def bound(part: Any) -> Any:
            if isinstance(part, tuple):
                return tuple(bound(p) for p in part)
            return part.bind(tokenizer, vocab_size) if isinstance(part, Part) else part

        if not self.binds:
            return self
        roles = [f.name for f in fields(self) if f.name not in ("name", "proposer", "guidance", "guidance_remask")]
        return replace(self, **{role: bound(getattr(self, role)) for role in roles})

    def within(self, attention_block: int) -> Sampler:
        """The sampler for a model whose attention has blocks of so many positions. Raises SettingsError: it reaches
        beyond the one that is being filled."""
        if self.exit is not None:
            raise SettingsError(
                f"sampler {self.name!r} may commit all that is left at once, also in attention blocks whose turn has"
                " not come, and this model's attention has blocks: use another sampler, or leave exit= out"
            )
        return replace(self, blocks=self.blocks.within(attention_block))

    @property
    def binds(self) -> bool:
        """Whether a setting may be a text."""
        return any(offers(part, Part.bind) for part in self.parts.values())

    @property
    def keeps(self) -> bool:
        """Whether what is committed stays as it is."""
        takes_back = self.probe is not None and self.probe.remasks
        return self.reviser is None and not self.selector.rewrites and not takes_back

    @cached_property
    def needs(self) -> frozenset[Statistic]:
        """Statistics some part reads; the probability is always taken."""
        needs: frozenset[Statistic] = frozenset({"prob"})
        return needs.union(*(part.needs for part in self.parts.values()))

    @cached_property
    def idle_steps(self) -> int:
        """How many steps of a row may commit nothing; 0 means that every step commits."""
        return max(part.idle_steps for part in (self.selector, self.budget) if part is not None)

    @cached_property
    def order_known(self) -> bool:
        """Whether the positions of a step are known before its forward: a random order with a fixed budget."""
        known = self.score.order_known and self.selector.order_known
        plain = not self.modifiers and self.probe is None and not self.selector.rewrites
        return plain and known and (self.budget is None or self.budget.order_known)

    @cached_property
    def compares_steps(self) -> bool:
        """Whether a part holds proposals of a step against those of the step before (KLASS, CCD)."""
        return "kl" in self.needs or any(part.compares_steps for part in self.parts.values())

    @property
    def moves_blocks(self) -> bool:
        """Whether a block may move while it is filled."""
        return offers(self.blocks, BlockSchedule.move)

    @property
    def grows(self) -> bool:
        """Whether rows may grow."""
        return offers(self.blocks, BlockSchedule.grow)

    @property
    def extra_cost(self) -> str:
        """Why a step costs more than its arithmetic, in two or three words; empty when it does not."""
        reasons = [text for statistic, text in _COSTS.items() if statistic in self.needs]
        reasons += ["several branches"] if self.probe is not None else []
        return ", ".join(reasons)


def _refusals(sampler: Sampler) -> Iterator[str]:
    """Why parts of the sampler are none or do not go together, reason by reason."""
    if sampler.probe is not None and not (isinstance(sampler.probe, Speculator) and isinstance(sampler.probe, Part)):
        yield f"probe: {type(sampler.probe).__name__} is no probe: it extends dlm.speculation.probes.Probe"
    for part in sampler.parts.values():
        yield from undeclared(part)
    for rule in (_budget, _modifiers, _schedule, _reviser, _growth, _constraint, _guidance):
        yield from rule(sampler)
    reason = None if sampler.probe is None else sampler.probe.clashes(sampler)
    if reason is not None:
        yield reason


def undeclared(part: Part) -> Iterator[str]:
    """What is wrong with the public names of a part, a sentence each.

    A field must not bear the name of a method of the role; and every other public name must be one that a role of the
    part knows.
    """
    name = type(part).__name__
    roles = [role for role in type(part).__mro__ if role.__module__.startswith(("dlm.engine.", "dlm.speculation."))]
    known = {n for role in roles for n in vars(role) if not n.startswith("_")}
    settings: set[str] = {f.name for f in fields(part)} if is_dataclass(part) else set()
    for setting in sorted(settings & known):
        if any(callable(vars(role).get(setting)) for role in roles):
            yield f"{name} has a setting called {setting!r}, which is a method of its role: call it something else"
    for extra in sorted({n for n in dir(type(part)) if not n.startswith("_")} - known - settings):
        near = meant(extra, known)
        yield f"{name} has {extra!r}, which its role does not know{near}: what is its own begins with an underscore"


def _budget(sampler: Sampler) -> Iterator[str]:
    """A budget is for selectors that read it."""
    selector = type(sampler.selector).__name__
    if sampler.selector.uses_budget and sampler.budget is None:
        yield (
            f"{selector} commits as many positions as a budget says; give one (for example"
            " samplers.Uniform(tokens_per_step=1))"
        )
    if sampler.budget is not None and not sampler.selector.uses_budget:
        yield (
            f"{selector} decides by itself how many positions to commit; remove the budget"
            f" ({type(sampler.budget).__name__})"
        )


def _modifiers(sampler: Sampler) -> Iterator[str]:
    """Scaling a negative score down raises it."""
    for modifier in sampler.modifiers:
        if modifier.scales and not sampler.score.non_negative:
            yield (
                f"{type(modifier).__name__} multiplies scores with factors below 1, which would raise the negative"
                f" scores of {type(sampler.score).__name__}; use a score that is never negative (samplers.Probability)"
            )


def _schedule(sampler: Sampler) -> Iterator[str]:
    """Parts that plan the whole canvas do not work with a schedule that cuts it as it likes."""
    for part in (sampler.budget, sampler.selector):
        if part is not None and part.plans_blocks and (sampler.moves_blocks or sampler.grows):
            yield (
                f"{type(part).__name__} shares its plan out over blocks when they are opened, and those of"
                f" {type(sampler.blocks).__name__} move: give tokens_per_step in place of steps, or other blocks"
            )
        accepted = None if part is None else part.block_schedules
        if accepted is not None and not isinstance(sampler.blocks, accepted):
            yield (
                f"{type(part).__name__} plans the whole canvas itself and does not fit the blocks of"
                f" {type(sampler.blocks).__name__}; use {_either(accepted)}"
            )


def _reviser(sampler: Sampler) -> Iterator[str]:
    """A reviser needs the partner that guarantees its end."""
    reviser = sampler.reviser
    if reviser is None or not reviser.partners:
        return
    role = "budget" if issubclass(reviser.partners[0], Budget) else "selector"
    present = getattr(sampler, role)
    if not isinstance(present, reviser.partners):
        yield (
            f"{type(reviser).__name__} is bounded only together with the {role} {_either(reviser.partners)},"
            f" not with {type(present).__name__}"
        )
        return
    mismatch = reviser.fits(present)
    if mismatch is not None:
        yield f"{type(reviser).__name__} and its {role} do not fit each other: {mismatch}"


def _growth(sampler: Sampler) -> Iterator[str]:
    """A row that grows moves what stands in it; what is remembered by position would stay behind."""
    if not sampler.grows:
        return
    clashes = {
        "a stop rule that shortens rows": sampler.stop is not None and offers(sampler.stop, StopRule.new_end),
        "a selector that cuts rows off": offers(sampler.selector, Selector.visible_end),
        "a probe": sampler.probe is not None,
        "a reviser": sampler.reviser is not None,
        "a part with a memory": any(
            offers(part, Part.init) for part in sampler.parts.values() if part is not sampler.blocks
        ),
        "blocks that stay where they are": not offers(sampler.blocks, BlockSchedule.move),
    }
    found = [what for what, there in clashes.items() if there]
    if found:
        yield f"the blocks of {type(sampler.blocks).__name__} grow, which does not go with {' and '.join(found)}"


def _constraint(sampler: Sampler) -> Iterator[str]:
    """Whatever is committed of proposals that go together leaves an answer possible; nothing else does."""
    if sampler.constraint is None:
        return
    if sampler.selector.rewrites:
        yield f"{type(sampler.selector).__name__} replaces committed tokens, which a constraint took for granted"
    if sampler.grows:
        yield f"a constraint needs rows that do not grow, as they do with {type(sampler.blocks).__name__}"


def _guidance(sampler: Sampler) -> Iterator[str]:
    """What is masked again is known behind the first forward alone."""
    if not sampler.guidance_remask:
        return
    if not sampler.guidance:
        yield "guidance_remask says what guidance is from: give guidance too"
    if {"attention", "shadow"} & sampler.needs:
        yield "guidance_remask takes two forwards, and a part reads the attention or a shadow block of the only one"


def _either(classes: Sequence[type]) -> str:
    return " or ".join(one.__name__ for one in classes)
