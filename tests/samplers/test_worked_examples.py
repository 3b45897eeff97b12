"""Examples of every preset, worked out by hand, decoded by the real loop over frozen logits."""

from __future__ import annotations

import pytest

import dlm
import samplers
from tests.doubles import T6, confidence_table, table_model


def committed(probs: list[list[float]], sampler: dlm.Sampler) -> list[set[int]]:
    """The set of positions committed at each step."""
    (answer,) = dlm.generate(table_model(probs), [[0]], sampler=sampler, max_new_tokens=len(probs))
    steps = answer.commit_step
    return [{i for i, s in enumerate(steps) if s == step} for step in range(max(steps) + 1)]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("topk", [{0, 3}, {1, 4}, {5}, {2}]),
        ("margin", [{0, 3}, {1, 4}, {5}, {2}]),
        ("entropy", [{0, 3}, {1, 5}, {4}, {2}]),
    ],
)
def test_fixed_budget_of_four_steps(preset: str, expected: list[set[int]]) -> None:
    assert committed(T6, getattr(samplers, preset)(steps=4)) == expected


def test_tokens_are_the_best_ones() -> None:
    (answer,) = dlm.generate(table_model(T6), [[0]], sampler=samplers.topk(), max_new_tokens=6)
    assert answer.tokens == [0, 1, 0, 2, 3, 1]
    assert answer.stop == "filled"


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.9, [{0, 3}, {1}, {4}, {5}, {2}]),
        (0.55, [{0, 1, 3, 4}, {5}, {2}]),
        (0.5, [{0, 1, 3, 4, 5}, {2}]),
    ],
)
def test_threshold(threshold: float, expected: list[set[int]]) -> None:
    assert committed(T6, samplers.threshold(threshold, precision="float64")) == expected


@pytest.mark.parametrize(
    ("confidences", "factor", "compat", "expected"),
    [
        ((0.98, 0.95, 0.90, 0.80, 0.70, 0.40), 1.0, "clean", [{0, 1, 2, 3}, {4}, {5}]),
        ((0.98, 0.95, 0.90, 0.80, 0.70, 0.40), 1.0, "reference", [{0, 1, 2, 3}, {4, 5}]),
        ((0.98, 0.95, 0.90, 0.80, 0.70, 0.40), 0.75, "clean", [{0, 1, 2}, {3}, {4}, {5}]),
        ((0.98, 0.95, 0.90, 0.80, 0.70, 0.40), 0.75, "reference", [{0, 1, 2}, {3}, {4, 5}]),
        ((0.95, 0.80, 0.60), 1.0, "clean", [{0, 1}, {2}]),
        ((0.95, 0.80, 0.60), 1.0, "reference", [{0, 1, 2}]),
    ],
)
def test_factor(confidences: tuple[float, ...], factor: float, compat: str, expected: list[set[int]]) -> None:
    # .80 meets its bound 1 - 1/5 exactly; a hair more keeps it there after log and exp.
    table = confidence_table([c + 1e-9 for c in confidences])
    sampler = samplers.factor(factor, compat=compat, precision="float64")  # type: ignore[arg-type]
    assert committed(table, sampler) == expected


@pytest.mark.parametrize(
    ("masks", "steps", "expected"),
    [
        (6, 4, [2, 2, 1, 1]),
        (32, 8, [4] * 8),
        (3, 5, [1, 1, 1]),
    ],
)
def test_uniform_split(masks: int, steps: int, expected: list[int]) -> None:
    sampler = samplers.topk(steps=steps, blocks=samplers.Whole())
    sets = committed(confidence_table([0.5] * masks), sampler)
    assert [len(s) for s in sets] == expected


@pytest.mark.parametrize(
    ("masks", "steps", "expected"),
    [
        (8, 4, [1, 2, 2, 3]),
        (16, 8, [1, 2, 2, 2, 2, 2, 2, 3]),
        (6, 4, [1, 1, 1, 3]),
        (8, 8, [0, 1, 1, 1, 1, 1, 1, 2]),
    ],
)
def test_dream_schedule_is_the_truncated_one(masks: int, steps: int, expected: list[int]) -> None:
    (answer,) = dlm.generate(
        table_model(confidence_table([0.5] * masks)),
        [[0]],
        sampler=samplers.dream_maskgit_plus(steps=steps),
        max_new_tokens=masks,
    )
    assert [answer.commit_step.count(step) for step in range(steps)] == expected
    assert answer.counts.forwards == steps


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("length", "steps"), [(256, 256), (512, 512), (768, 768), (256, 128), (256, 64)])
def test_dream_schedule_at_published_lengths(length: int, steps: int) -> None:
    (answer,) = dlm.generate(
        table_model(confidence_table([0.5] * length)),
        [[0]],
        sampler=samplers.dream_maskgit_plus(steps=steps),
        max_new_tokens=length,
    )
    counts = [answer.commit_step.count(step) for step in range(steps)]
    each = length // steps
    assert counts == [each - 1, *[each] * (steps - 2), each + 1]


def test_dream_clean_schedule_wastes_no_forward() -> None:
    (answer,) = dlm.generate(
        table_model(confidence_table([0.5] * 8)),
        [[0]],
        sampler=samplers.dream_entropy(compat="clean"),
        max_new_tokens=8,
    )
    assert [answer.commit_step.count(step) for step in range(8)] == [1] * 8
