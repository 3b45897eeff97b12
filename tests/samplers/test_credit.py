"""Credit: four traces worked out by hand (CreditDecoding, arXiv 2510.06133), its store, and what it forgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dlm
import samplers
from dlm.engine.step import LogitRows
from tests.doubles import random_llada, scripted_model, table_model
from tests.samplers.runs import blank_canvas, blocks_of, decode, outcome

MODEL = random_llada()
FROZEN = (2.6, 1.0, -1.0)
stores = pytest.mark.parametrize("store", ["sparse", "dense"])


def probabilities(logits: tuple[float, ...]) -> list[float]:
    return torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()


def watched(script: list[tuple[float, ...]], sampler: dlm.Sampler) -> tuple[list[float], list[int]]:
    """Position 0 follows a script of logits; of three others one a step becomes certain, so that the block goes on.

    Returns the fused confidence of position 0 at every step, and the commit steps.
    """
    width = len(script[0])
    certain, flat = [0.9999] + [0.0001 / (width - 1)] * (width - 1), [1 / width] * width
    tables = [
        [probabilities(logits), *(certain if i == step else flat for i in range(len(script) - 1))]
        for step, logits in enumerate(script)
    ]
    answer = decode(scripted_model(tables), sampler, len(script), record=("commits", "confidence"))
    assert answer.trace is not None
    seen = [(step.confidence or {}).get(1) for step in answer.trace.steps]
    assert answer.confidence[0] == pytest.approx(seen[-1])
    return [q for q in seen if q is not None], answer.commit_step


@stores
@pytest.mark.parametrize(
    ("variant", "fused", "steps"),
    [
        ("paper", [0.8711, 0.8911, 0.9010], [2, 0, 1, 2]),
        ("dinfer", [0.8748, 0.8980, 0.9103], [2, 0, 1, 2]),
        # The masked shares are 1, 3/4, 1/2 and 1/4.
        ("free", [0.8135, 0.8387, 0.8692, 0.9044], [3, 0, 1, 2]),
    ],
)
def test_credit_lifts_a_frozen_token(variant: Any, store: Any, fused: list[float], steps: list[int]) -> None:
    sampler = samplers.credit(0.90, variant=variant, store=store, precision="float64")
    seen, found = watched([FROZEN] * 4, sampler)
    assert seen == pytest.approx(fused, abs=5e-5)
    assert found == steps


@stores
def test_credit_of_a_token_that_is_overtaken(store: Any) -> None:
    script = [(2.0, 0.0), (2.0, 0.0), (0.0, 0.5), (0.0, 0.5)]
    seen, _ = watched(script, samplers.credit(0.97, store=store, precision="float64"))
    assert seen[2:] == pytest.approx([0.6034, 0.6728], abs=5e-5)
    raw, _ = watched(script, samplers.threshold(0.97, precision="float64"))
    assert raw[2:] == pytest.approx([0.6225, 0.6225], abs=5e-5)


class Position:
    """Credit given to one position by hand, step by step."""

    def __init__(self, part: samplers.Credit, positions: int = 1) -> None:
        self.part, self.canvas = part, blank_canvas(positions)
        self.blocks = blocks_of(self.canvas)
        self.state = part.init(self.canvas)

    def step(self, logits: tuple[float, ...], positions: int = 1) -> Tensor:
        """Feed these logits, with the mask id behind them, at the first positions; the fused ones come back."""
        rows = torch.tensor([[*logits, -1e9]] * positions, dtype=torch.float64)
        canvas = replace(self.canvas, mask_id=len(logits))
        zero, place = torch.zeros(positions, dtype=torch.long), torch.arange(positions)
        at = LogitRows(canvas, self.blocks, zero, place, torch.ones(positions, dtype=torch.bool))
        fused, self.state = self.part.step(rows.clone(), at, self.state)
        return fused

    def credit(self, token: int, position: int = 0) -> float:
        """What this token has."""
        if self.part.store == "dense":
            return float(self.state.value[0, position, token])
        has = self.state.token[0, position] == token
        return float((self.state.value[0, position] * has).sum())


@stores
@pytest.mark.parametrize(
    ("settings_", "script", "credit"),
    [
        ((0.65, 0.70, 0.20), [FROZEN] * 3, [(0.9596, 0.0), (1.6313, 0.0), (2.1014, 0.0)]),
        ((0.70, 0.80, 0.20), [FROZEN] * 3, [(0.9596, 0.0), (1.7272, 0.0), (2.3413, 0.0)]),
        (
            (0.65, 0.70, 0.20),
            [(2.0, 0.0), (2.0, 0.0), (0.0, 0.5), (0.0, 0.5)],
            [(0.9749, 0.0), (1.6574, 0.0), (1.1602, 0.9095), (0.8121, 1.5462)],
        ),
    ],
)
def test_credit_itself(settings_: tuple[float, float, float], script: list, credit: list, store: Any) -> None:
    position = Position(samplers.Credit(*settings_, store=store))
    for logits, expected in zip(script, credit, strict=True):
        position.step(logits)
        assert (position.credit(0), position.credit(1)) == pytest.approx(expected, abs=5e-5)


@stores
def test_credit_is_dropped_with_the_token(store: Any) -> None:
    watched_ = Position(samplers.Credit(store=store), positions=2)
    first = watched_.step(FROZEN, 2)
    second = watched_.step(FROZEN, 2)
    assert not torch.allclose(first, second)
    again = torch.zeros_like(watched_.canvas.writable)
    again[0, 0] = True
    watched_.state = watched_.part.forget(again, watched_.state)
    third = watched_.step(FROZEN, 2)
    assert torch.equal(third[0], first[0])
    assert third[1, 0] > second[1, 0] > first[1, 0]


def test_credit_is_void_in_the_next_block() -> None:
    part = Position(samplers.Credit())
    first = part.step(FROZEN)
    part.step(FROZEN)
    part.blocks = blocks_of(part.canvas, step=2, number=2)
    assert torch.equal(part.step(FROZEN), first)


def test_a_remasked_position_starts_without_credit() -> None:
    """ReMDM masks the last of four again; its confidence is then the one of a first deposit, every time."""
    frozen = [probabilities((gap, 0.0, -1.0)) for gap in (4.0, 3.0, 2.0, 1.0)]
    sampler = samplers.remdm(cycles=2, start=0.75, transforms=(samplers.Credit(),), precision="float64")
    answer = decode(table_model(frozen), sampler, 4, record=("commits", "confidence"))
    assert answer.trace is not None
    seen = [(step.confidence or {}).get(3) for step in answer.trace.steps]
    # Position 2 (canvas 3): open at steps 0 to 2, taken back after 2 and after 3.
    assert seen[3] == pytest.approx(seen[0])
    assert seen[4] == pytest.approx(seen[0])
    assert seen[2] > seen[1] > seen[0]


def test_every_adaptive_block_starts_without_credit() -> None:
    frozen = [probabilities((1.5, 0.0, -1.0)) for _ in range(8)]
    options = {"blocks": samplers.AdaptiveBlocks(3, (2,)), "transforms": (samplers.Credit(),), "precision": "float64"}
    answer = decode(table_model(frozen), samplers.topk(**options), 8, record=("commits", "confidence"))
    assert answer.trace is not None
    firsts = [s for i, s in enumerate(answer.trace.steps) if i == 0 or answer.trace.steps[i - 1].block != s.block]
    assert len(firsts) == 3
    values = [q for step in firsts for q in (step.confidence or {}).values()]
    assert values == pytest.approx([values[0]] * len(values))


@settings(max_examples=12)
@given(
    prompts=st.lists(st.lists(st.integers(0, 37), min_size=1, max_size=6), min_size=1, max_size=3),
    new=st.integers(2, 9),
    variant=st.sampled_from(["paper", "free", "dinfer"]),
    block=st.integers(1, 5),
)
def test_sparse_equals_dense(prompts: list[list[int]], new: int, variant: Any, block: int) -> None:
    options = {"variant": variant, "precision": "float64", "blocks": samplers.Fixed(min(block, new))}
    runs = [
        dlm.generate(MODEL, prompts, sampler=samplers.credit(0.7, slots=40, store=store, **options), max_new_tokens=new)
        for store in ("sparse", "dense")
    ]
    for sparse, dense in zip(*runs, strict=True):
        assert outcome(sparse) == outcome(dense)
        assert sparse.confidence == pytest.approx(dense.confidence, rel=1e-5)


def test_the_least_credit_gives_way() -> None:
    part = Position(samplers.Credit(0.65, 0.70, 1.0, slots=2))
    for logits in [(5.0, 0.0, 0.0), (5.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]:
        part.step(logits)
    assert part.credit(0) > 0
    assert part.credit(1) == 0
    assert part.credit(2) > 0


def test_sparse_memory_does_not_depend_on_the_vocabulary() -> None:
    def elements(store: Any, vocabulary: int) -> int:
        part = Position(samplers.Credit(store=store), positions=4)
        part.step(tuple([1.0] + [0.0] * (vocabulary - 1)), 4)
        return sum(tensor.numel() for tensor in part.state)

    assert elements("sparse", 10) == elements("sparse", 1000) == 5 * (5 + 5 + 1)  # no more slots than columns
    assert elements("dense", 1000) > 50 * elements("dense", 10)
