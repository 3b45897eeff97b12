"""Which parts go together: the table of specs/samplers.md 4.4, as rules about what parts say of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlm.errors import SettingsError

if TYPE_CHECKING:
    from dlm.engine.sampler import Sampler


def refuse_illegal(sampler: Sampler) -> None:
    """Raise a SettingsError with the reason when parts of the sampler contradict each other."""
    for rule in (_budget, _modifiers, _blocks, _reviser, _lookahead):
        reason = rule(sampler)
        if reason is not None:
            raise SettingsError(f"sampler {sampler.name!r}: {reason}")


def _budget(sampler: Sampler) -> str | None:
    """A budget is for selectors that read it."""
    selector = type(sampler.selector).__name__
    if sampler.selector.uses_budget and sampler.budget is None:
        return (
            f"{selector} commits as many positions as a budget says; give one (for example"
            " samplers.Uniform(tokens_per_step=1))"
        )
    if sampler.budget is not None and not sampler.selector.uses_budget:
        return (
            f"{selector} decides by itself how many positions to commit; remove the budget"
            f" ({type(sampler.budget).__name__})"
        )
    return None


def _modifiers(sampler: Sampler) -> str | None:
    """Scaling a negative score down raises it."""
    for modifier in sampler.modifiers:
        if getattr(modifier, "scales", False) and not getattr(sampler.score, "non_negative", False):
            return (
                f"{type(modifier).__name__} multiplies scores with factors below 1, which would raise the negative"
                f" scores of {type(sampler.score).__name__}; use a score that is never negative (samplers.Probability)"
            )
    return None


def _blocks(sampler: Sampler) -> str | None:
    """Parts that plan the whole canvas do not work with a schedule that cuts it as it likes."""
    for part in (sampler.budget, sampler.selector):
        accepted = getattr(part, "block_schedules", None)
        if accepted is not None and type(sampler.blocks).__name__ not in accepted:
            return (
                f"{type(part).__name__} plans the whole canvas itself and does not fit the blocks of"
                f" {type(sampler.blocks).__name__}; use {' or '.join(accepted)}"
            )
    return None


def _reviser(sampler: Sampler) -> str | None:
    """A reviser needs the partner that guarantees its end."""
    reviser = sampler.reviser
    if isinstance(reviser, list | tuple):
        return "two revisers in one sampler may undo each other for ever; give one"
    partner = getattr(reviser, "partner", None)
    if partner is not None:
        role, names = partner
        present = getattr(sampler, role)
        if type(present).__name__ not in names:
            return (
                f"{type(reviser).__name__} is bounded only together with the {role} {' or '.join(names)},"
                f" not with {type(present).__name__}"
            )
        mismatch = getattr(reviser, "fits", lambda partner: None)(present)
        if mismatch is not None:
            return f"{type(reviser).__name__} and its {role} do not fit each other: {mismatch}"
    return None


def _lookahead(sampler: Sampler) -> str | None:
    """A branch is only looked at: what would have to be remembered, seen or undone for each of them is refused."""
    if sampler.lookahead is None:
        return None
    clashes = {
        "a logit transform": bool(sampler.transforms),
        "guidance": sampler.guidance > 0,
        "an early exit": sampler.exit is not None,
        "a reviser": sampler.reviser is not None,
        "a selector that rewrites": sampler.rewrites,
        "a part that reads the previous step's distribution, attention or a shadow block": bool(
            {"kl", "attention", "shadow"} & sampler.needs
        ),
    }
    found = [what for what, there in clashes.items() if there]
    return f"look-ahead branches cannot be combined with {' and '.join(found)}: remove one" if found else None
