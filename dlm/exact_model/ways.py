"""The samplers of the table, as Hydra overrides of ``conf/oracle.yaml``."""

from __future__ import annotations

Overrides = tuple[str, ...]

# Equal tokens, and equally sure positions, are told apart at random.
TOKEN_TIES = "sampler.transforms=[{_target_: dlm.exact_model.TokenTies}]"
POSITION_TIES = "sampler.modifiers=[{_target_: dlm.exact_model.PositionTies}]"
DRAWN = "sampler.temperature=1.0"
HAIR = 1e-8  # puts a bound beside a confidence that it would meet, on the side that the rule means


def drawn(k: int) -> Overrides:
    """``k`` tokens a step, in random order, drawn from the marginals."""
    return ("sampler=random", f"sampler.tokens_per_step={k}", DRAWN)


def best(k: int) -> Overrides:
    """``k`` tokens a step, in random order, the most probable ones."""
    return (*lowest_id(k), TOKEN_TIES)


def lowest_id(k: int) -> Overrides:
    """As :func:`best`, of equal tokens the one with the lowest id."""
    return ("sampler=random", f"sampler.tokens_per_step={k}")


def in_steps(steps: int, draws: bool) -> Overrides:
    """So many steps, as equal as possible, the larger ones first."""
    return ("sampler=random", f"sampler.steps={steps}", DRAWN if draws else TOKEN_TIES)


def left_to_right(way: Overrides, positions: int) -> Overrides:
    """The same in blocks of so many positions."""
    return (*way, "blocks=fixed", f"blocks.length={positions}")


def surest_first(k: int) -> Overrides:
    """``k`` tokens a step, the most probable ones, the surest positions first."""
    return ("sampler=topk", f"sampler.tokens_per_step={k}", TOKEN_TIES, POSITION_TIES)


def threshold(gamma: str, strict: bool, draws: bool) -> Overrides:
    """Everything above ``gamma``, or (not ``strict``) on it."""
    bound = float(gamma) + (HAIR if strict else -HAIR)
    return ("sampler=threshold", f"sampler.threshold={bound:.10f}", DRAWN if draws else TOKEN_TIES)


def factor(value: str, slip: bool) -> Overrides:
    """The factor rule as published, or as its code behaves."""
    bound = float(value) + (HAIR if slip else -HAIR)
    compat = "reference" if slip else "clean"
    return ("sampler=factor", f"sampler.factor={bound:.10f}", f"sampler.compat={compat}", TOKEN_TIES)


def entropy_bound(gamma: str) -> Overrides:
    """As many positions as the entropy bound lets through."""
    return ("sampler=eb", f"sampler.gamma={gamma}", TOKEN_TIES)
