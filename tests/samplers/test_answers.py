"""The first answer of every part in a run is held against its role: nothing is broadcast over a batch, or forgotten."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.engine.interfaces import (
    BlockSchedule,
    Budget,
    EarlyExit,
    LogitTransform,
    Reviser,
    Score,
    ScoreModifier,
    Selector,
    StopRule,
)  # fmt: skip
from dlm.errors import SettingsError
from tests.doubles import random_llada

MODEL = random_llada()
BASE = samplers.topk(blocks=samplers.Fixed(4))


def answering(role: type, method: str, answer: Any) -> Any:
    """A part of a role whose ``method`` answers what ``answer`` makes of its arguments."""
    made = dataclass(frozen=True)(type(f"Strange{role.__name__}", (role,), {method: lambda self, *args: answer(*args)}))
    return made()


def wide(view: Any) -> torch.Tensor:
    return torch.ones(1, view.positions.shape[1])


# What it is, the bundle with it, what the error says.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("score of one row", {"score": answering(Score, "step", lambda v, s: (wide(v), s))}, "float32 tensor of shape"),
    ("score without memory", {"score": answering(Score, "step", lambda v, s: v.proposal.prob)}, "must be a tuple"),
    ("integer scores", {"score": answering(Score, "step", lambda v, s: (v.positions, s))}, "must be a float tensor"),
    ("selector of one row", {"selector": answering(Selector, "step", lambda v, s: (wide(v) > 0, s))}, "bool tensor"),
    ("places instead of a mask", {"selector": answering(Selector, "step", lambda v, s: (v.positions, s))}, "bool"),
    ("a list", {"selector": answering(Selector, "step", lambda v, s: ([True], s))}, "answers a list of 1"),
    ("a column", {"selector": answering(Selector, "step", lambda v, s: (v.eligible[:, :1], s))}, "of shape"),
    ("budget for all", {"budget": answering(Budget, "step", lambda v, s: (torch.tensor(2), s))}, "int tensor of shape"),
    ("half a token", {"budget": answering(Budget, "step", lambda v, s: (v.proposal.prob[:, 0], s))}, "int tensor"),
    ("modifier", {"modifiers": (answering(ScoreModifier, "step", lambda v, s: (wide(v), s)),)}, "float tensor"),
    ("transform", {"transforms": (answering(LogitTransform, "step", lambda x, a, s: (x[:1], s)),)}, "float tensor"),
    ("exit", {"exit": answering(EarlyExit, "step", lambda v, s: (torch.tensor(True), s))}, "bool tensor of shape"),
    ("stop", {"stop": answering(StopRule, "after_block", lambda c, b, closed: torch.tensor(-1))}, "int tensor"),
    ("reviser", {"reviser": answering(Reviser, "step", lambda v, c, s: (c, s))}, "bool tensor of shape"),
]


@dataclass(frozen=True)
class Blocks(BlockSchedule):
    """All rows at once, from one number."""

    def longest(self, region: int) -> int:
        return region

    def step(self, canvas: Any, state: Any) -> Any:
        return canvas.start[:1], canvas.end[:1], state


@dataclass(frozen=True)
class Forgetful(Score):
    """Counts, and does not say so."""

    def init(self, canvas: Any) -> Any:
        return torch.zeros_like(canvas.start)

    def step(self, view: Any, state: Any) -> Any:
        return view.proposal.prob, None


@dataclass(frozen=True)
class SharedMemory(Forgetful):
    def init(self, canvas: Any) -> Any:
        return torch.zeros(3, 3)


WRONG += [
    ("blocks", {"blocks": Blocks()}, "int tensor of shape"),
    ("forgets", {"score": Forgetful()}, "a memory of nothing where it was given"),
    ("one memory for all", {"score": SharedMemory()}, "the batch's 2 rows"),
]


@pytest.mark.parametrize(("parts", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_answer_is_one_error_that_names_the_part(parts: dict[str, Any], says: str) -> None:
    if "selector" in parts:
        parts = {"budget": None, **parts}
    part = next(iter(part for part in parts.values() if part is not None))
    name = type(part[0] if isinstance(part, tuple) else part).__name__
    with pytest.raises(SettingsError, match=f"{name}.*{says}"):
        dlm.generate(MODEL, [[3, 4, 5], [6, 7]], sampler=replace(BASE, **parts), max_new_tokens=8)


def _policy(**methods: Any) -> Any:
    base = {"refreshes": lambda self, row: row.block_steps == 0, "active": lambda self, context, state: context.live}
    for name, method in methods.items():
        method.__name__ = name
    return dataclass(frozen=True)(type("StrangePolicy", (cache.Policy,), base | methods))()


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        ({"refreshes": lambda self, row: 1}, "refreshes.. answers a int; it must be a plain bool"),
        ({"active": lambda self, context, state: context.live[:1]}, "active.. answers a bool tensor of shape"),
        ({"active": lambda self, context, state: context.live.long()}, "must be a bool tensor"),
        ({"visible": lambda self, context: context.live[0]}, "visible.. answers"),
        ({"candidates": lambda self, context, state: context.live[:, :3]}, "candidates.. answers"),
        ({"remember": lambda self, view, chosen, state: state}, "it must be a tuple of the memory and a dict"),
        ({"remember": lambda self, view, chosen, state: (state, {"n": 3})}, "must be a int tensor of shape"),
        ({"init": lambda self, canvas: torch.zeros(7)}, "the batch's 2 rows"),
        ({"init": lambda self, canvas: {}}, "answers a dict for a memory"),
    ],
)
def test_so_is_that_of_a_cache(methods: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=f"StrangePolicy.*{says}"):
        dlm.generate(MODEL, [[3, 4, 5], [6, 7]], sampler=BASE, cache=_policy(**methods), max_new_tokens=8)


def test_right_answers_pass() -> None:
    good = replace(BASE, score=answering(Score, "step", lambda v, s: (v.proposal.prob.double(), s)))
    assert [len(a.tokens) for a in dlm.generate(MODEL, [[3, 4], [5]], sampler=good, cache=_policy(), max_new_tokens=8)]
