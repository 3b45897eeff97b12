"""Roles are declared: a part extends the class of its role, and every public name of it is one that the role knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

import dlm
import samplers
from dlm.engine.interfaces import BlockSchedule, LogitTransform, Selector
from dlm.engine.sampler import undeclared
from dlm.errors import SettingsError
from tests.doubles import random_llada
from tests.samplers.runs import blank_canvas, blocks_of

MODEL = random_llada()


@dataclass(frozen=True)
class Plain(Selector):
    """Everything, or what stands before a setting."""

    level: float = 0.0

    def step(self, view: Any, state: Any) -> Any:
        return view.eligible & (view.proposal.prob >= self.level), state


@dataclass(frozen=True)
class Reach(Plain):
    """A setting with the name of nothing: `reach` once was a method that the loop looked for."""

    reach: int = 3


@dataclass(frozen=True)
class Collides(Plain):
    visible_end: int = 3


@dataclass(frozen=True)
class Misspelt(Plain):
    def visibel_end(self, canvas: Any, state: Any) -> Any:
        raise AssertionError("never called")


@dataclass(frozen=True)
class OfAnotherRole(Plain):
    def narrow(self, view: Any, opened: Any, state: Any) -> Any:
        raise AssertionError("never called")


@dataclass(frozen=True)
class Flag(Plain):
    uses_budgets = True


@dataclass(frozen=True)
class Wider(samplers.WideIn):
    """A subclass of the partner."""


class WideIn(Plain):
    """Another class of that name."""


@dataclass(frozen=True)
class Both(Selector, LogitTransform):
    """A part with two roles knows the names of both."""

    def step(self, view: Any, state: Any) -> Any:  # type: ignore[override]
        return view.eligible, state


@dataclass(frozen=True)
class Longer(samplers.Whole):
    """A schedule that extends ours."""


class NoPart:
    """Has the method and not the role."""

    needs: frozenset[Any] = frozenset()

    def step(self, view: Any, state: Any) -> Any:
        return view.eligible, state


def built(**parts: Any) -> dlm.Sampler:
    whole = {"score": samplers.Probability(), "selector": Plain(), "blocks": samplers.Fixed(4), **parts}
    return dlm.Sampler("mine", **whole)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"selector": Collides()}, "a setting called 'visible_end', which is a method of its role"),
        ({"selector": Misspelt()}, "'visibel_end', which its role does not know .did you mean visible_end"),
        ({"selector": OfAnotherRole()}, "'narrow', which its role does not know"),
        ({"selector": Flag()}, "'uses_budgets', .*did you mean uses_budget"),
        ({"selector": NoPart()}, "selector must be a Selector, got "),
        ({"selector": samplers.Probability()}, "selector must be a Selector, got Probability"),
        ({"blocks": None}, "blocks must be a BlockSchedule, got null"),
        (
            {"transforms": (samplers.SuppressEnd(),)},
            "transforms must be a list, each of it a LogitTransform",
        ),
        ({"stop": samplers.AnswerGap()}, "stop must be a StopRule or null, got AnswerGap"),
        ({"probe": samplers.AnswerGap()}, "probe: AnswerGap is no probe"),
        ({"selector": WideIn(), "reviser": samplers.NarrowOut()}, "selector WideIn, not with WideIn"),
    ],
)
def test_what_no_role_knows_is_refused_when_the_sampler_is_built(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        built(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"selector": Reach()},
        {"selector": Wider(), "reviser": samplers.NarrowOut()},
        {"selector": Both()},
        {"selector": samplers.TopK(), "budget": samplers.TimeGrid(steps=64), "blocks": Longer()},
    ],
)
def test_what_a_role_knows_is_taken(parts: dict[str, Any]) -> None:
    (answer,) = dlm.generate(MODEL, [[1, 2]], sampler=built(**parts), max_new_tokens=8)
    assert MODEL.description.mask_id not in answer.tokens


def test_what_is_no_cache_and_no_drafter_is_refused() -> None:
    options = {"sampler": built(), "max_new_tokens": 4}
    with pytest.raises(SettingsError, match="NoPart is no cache"):
        dlm.generate(MODEL, [[1]], cache=NoPart(), **options)
    with pytest.raises(SettingsError, match="NoPart is no drafter"):
        dlm.generate(MODEL, [[1]], drafter=NoPart(), **options)


def test_our_own_parts_declare_what_they_do() -> None:
    def below(role: type) -> set[type]:
        return {sub for direct in role.__subclasses__() for sub in (direct, *below(direct))}

    from dlm.engine.interfaces import Part

    ours = [part for part in below(Part) if part.__module__.startswith(("samplers.", "dlm.exact_model."))]
    assert len(ours) > 50
    assert [line for part in ours for line in undeclared(object.__new__(part))] == []


def test_an_ability_is_what_the_class_overrides() -> None:
    """A part that overrides nothing is asked nothing: neither positions nor ends of its own."""
    plain = built()
    assert not (plain.moves_blocks or plain.grows or plain.binds or plain.compares_steps)
    assert replace(plain, blocks=samplers.SlidingBlocks(3)).moves_blocks
    assert replace(plain, blocks=samplers.GrowingBlocks()).grows
    assert replace(plain, blocks=samplers.AdaptiveBlocks()).binds
    canvas = blank_canvas(4)
    assert BlockSchedule().move(canvas, blocks_of(canvas), None) is None
