"""Examples of the published rules, worked out by hand: rules about which positions a step commits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import samplers
from tests.doubles import (
    T6,
    StatefulBackbone,
    confidence_table,
    proposal_table,
    scripted_model,
    table_model,
    wrap,
)
from tests.samplers.runs import chosen_of, commits, decode, view_of

FRECHET = [0.98, 0.95, 0.90, 0.80, 0.70, 0.40]


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [(FRECHET, [{0, 1, 2, 3}, {4}, {5}]), ([0.95, 0.80, 0.60], [{0, 1}, {2}])],
)
def test_frechet(confidences: list[float], expected: list[set[int]]) -> None:
    model = table_model(confidence_table(confidences))
    assert commits(model, samplers.frechet(), len(confidences)) == expected


@pytest.mark.parametrize(
    ("confidences", "bounds"),
    [(FRECHET, [0.96, 0.88, 0.73, 0.43, 0.03, -0.60]), ([0.95, 0.80, 0.60], [0.90, 0.55, -0.05])],
)
def test_frechet_bounds(confidences: list[float], bounds: list[float]) -> None:
    model = table_model(confidence_table(confidences))
    for n, bound in enumerate(bounds, start=1):
        first = [len(commits(model, samplers.frechet(bound + change), len(confidences))[0]) for change in (-1e-3, 1e-3)]
        assert first == [n, max(n - 1, 1)]


def test_entropy_threshold() -> None:
    assert commits(table_model(T6), samplers.entropy_threshold(0.5), 6) == [{0, 3}, {1}, {5}, {4}, {2}]


@pytest.mark.parametrize("steps", [12, 512])
def test_dimple_is_strict_and_falls_back_to_one(steps: int) -> None:
    sampler = samplers.dimple(0.92, steps=steps, precision="float64")
    assert commits(table_model(T6), sampler, 6) == [{3}, {0}, {1}, {4}, {5}, {2}]


def test_dimple_at_the_end_of_its_grid() -> None:
    """2 (1 - s/t) is 0.995 at the last but one point of six, so the last point takes both, as in the reference."""
    sampler = samplers.dimple(0.92, steps=6, precision="float64")
    assert commits(table_model(T6), sampler, 6) == [{3}, {0}, {1}, {4}, {2, 5}]


def test_the_last_step_of_dimple_commits_everything() -> None:
    script = [confidence_table(c) for c in ([0.97, 0.5, 0.5, 0.5], [0.5, 0.97, 0.5, 0.5], [0.5] * 4)]
    assert commits(scripted_model(script), samplers.dimple(0.95, steps=2), 4) == [{0}, {1, 2, 3}]


def test_local_leap() -> None:
    model = table_model(confidence_table([0.78, 0.60, 0.93, 0.76, 0.74, 0.77, 0.50, 0.80]))
    leaping = samplers.localleap(0.9, 0.75, 2)
    assert commits(model, leaping, 8) == [{0, 2, 3}, {7}, {5}, {4}, {1}, {6}]
    assert commits(model, samplers.threshold(0.9), 8) == [{2}, {7}, {0}, {5}, {3}, {4}, {1}, {6}]
    # The paper's 0.75 by default; a threshold below it is its own neighbourhood's too.
    assert commits(model, samplers.localleap(0.9, radius=2), 8) == commits(model, leaping, 8)
    assert commits(model, samplers.localleap(0.6, radius=2), 8) == commits(model, samplers.threshold(0.6), 8)


def with_entropy(nats: float) -> list[float]:
    """Two probabilities of this entropy."""
    low, high = 0.5, 1.0 - 1e-12
    for _ in range(80):
        p = (low + high) / 2
        low, high = (p, high) if -p * math.log(p) - (1 - p) * math.log(1 - p) > nats else (low, p)
    return [p, 1 - p]


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (0.1, [{0, 1, 2, 4}, {3}, {5}]),
        (0.02, [{0, 4}, {2}, {1}, {3}, {5}]),
        (0.5, [{0, 1, 2, 3, 4, 5}]),
    ],
)
def test_entropy_bound(gamma: float, expected: list[set[int]]) -> None:
    model = table_model([with_entropy(h) for h in (0.02, 0.05, 0.04, 0.30, 0.01, 0.60)])
    assert commits(model, samplers.eb(gamma), 6) == expected


def test_klass_waits_for_two_quiet_forwards() -> None:
    model = table_model(confidence_table([0.90, 0.80, 0.70, 0.65, 0.55]))
    answer = decode(model, samplers.klass(0.6, divergence=0.01), 5)
    assert answer.commit_step == [0, 1, 2, 2, 3]
    assert answer.counts.forwards == 4


def test_klass_does_not_trust_what_still_moves() -> None:
    sure, moved = [0.90, 0.80, 0.70, 0.65, 0.55], [0.90, 0.80, 0.70, 0.95, 0.55]
    model = scripted_model([confidence_table(c) for c in (sure, moved, sure)])
    # Position 3 moves at the second and at the third forward.
    assert commits(model, samplers.klass(0.6, divergence=0.01), 5) == [{0}, {3}, {1, 2}, {4}]


def test_hierarchy() -> None:
    model = table_model(confidence_table([0.50, 0.70, 0.20, 0.95, 0.35, 0.60, 0.45, 0.91]))
    assert commits(model, samplers.hierarchy(0.4, 0.9), 8) == [{3, 7}, {1, 5}, {0, 6}, {4}, {2}]


@pytest.mark.parametrize(
    ("buffer", "agrees", "seek", "expected", "behind"),
    [
        ({1, 4, 6}, {1}, False, {1}, {3, 4, 6}),
        ({1, 4, 6}, {1}, True, {1}, {3, 4, 6}),
        ({1, 4, 6}, {1, 6}, True, {1, 6}, {3, 4, 0}),
        ({1, 4, 6}, {1, 6}, False, {1}, {3, 4, 6}),
        ({4, 7}, {1, 6}, True, {1}, {3, 4, 6}),
        ({1, 4, 6}, {3}, True, {1}, {3, 4, 6}),
    ],
)
def test_coherent_decoding(
    buffer: set[int], agrees: set[int], seek: bool, expected: set[int], behind: set[int]
) -> None:
    # The ranking is 1, 6, 3, 4, 0, ...; u = 1, and the buffer has size 3 at this step.
    view = view_of([0.5, 0.9, 0.4, 0.7, 0.6, 0.3, 0.8, 0.2], step=6)
    selector = samplers.Coherent(seek=seek)
    state = selector.init(view.canvas)
    state = state._replace(size=torch.tensor([2]))
    for position in buffer:
        state.waiting[0, position] = 1 if position in agrees else 2
    chosen, state = selector.step(view, state)
    assert chosen_of(chosen) == expected
    assert chosen_of(state.waiting >= 0) == behind
    assert int(state.size) == 3


@pytest.mark.parametrize(
    ("steps", "sizes"), [(None, [1, 1, 1, 1, 2, 3, 4, 5, 5, 5]), (10, [1, 1, 1, 1, 2, 3, 4, 5, 6, 7])]
)
def test_coherent_buffer_grows(steps: int | None, sizes: list[int]) -> None:
    selector, found = samplers.Coherent(steps=steps), []
    state = selector.init(view_of([0.5] * 20).canvas)
    for step in range(10):
        _, state = selector.step(view_of([0.5] * 20, step=step), state)
        found.append(int(state.size))
    assert found == sizes


def test_coherent_buffer_shrinks_at_the_end() -> None:
    selector = samplers.Coherent()
    view = view_of([0.5] * 20, step=15)
    view = replace(view, eligible=view.positions < 2)
    state = selector.init(view.canvas)._replace(size=torch.tensor([5]))
    assert int(selector.step(view, state)[1].size) == 2


@pytest.mark.parametrize("preset", [samplers.ccd, samplers.ccd_ds])
def test_coherent_decoding_of_a_frozen_model(preset) -> None:
    """Nothing ever changes its mind, so that after the warm-up CCD-DS commits all that it has in view."""
    sets = commits(table_model(confidence_table([0.9 - 0.05 * i for i in range(12)])), preset(), 12)
    assert sets[:5] == [{0}, {1}, {2}, {3}, {4}]
    # Step 4 stores the 2 positions behind, V is 3 at step 5, 4 at step 6: {5, 6}, then 3 buffered, then the rest.
    ahead = [{5, 6}, {7, 8, 9}, {10, 11}]
    assert sets[5:] == (ahead if preset is samplers.ccd_ds else [{i} for i in range(5, 12)])


PC = [(0.9, 0.05), (0.95, 0.001), (0.6, 0.0), (0.99, 0.1)]


def test_pc_order(tmp_path: Path) -> None:
    frequency = torch.zeros(402)
    for token, (_, share) in enumerate(PC, start=1):
        frequency[token] = share
    save_file({"frequency": frequency}, tmp_path / "f.safetensors")
    model = table_model(proposal_table([(token, p) for token, (p, _) in enumerate(PC, start=1)]))
    sampler = samplers.pc(frequencies=str(tmp_path / "f.safetensors"))
    assert commits(model, sampler, 4) == [{2}, {1}, {0}, {3}]


def test_pc_scores() -> None:
    view = view_of([p for p, _ in PC], tokens=[1, 2, 3, 4])
    table = torch.tensor([0.0, *(share for _, share in PC)], dtype=torch.float64)
    scores, _ = samplers.Calibrated(table=table).step(view, None)
    assert scores[0].tolist() == pytest.approx([2.6962, 5.1108, 6.0653, 1.0768], abs=5e-5)


def test_dawn() -> None:
    before = confidence_table([0.97, 0.2, 0.2, 0.2, 0.2, 0.2])
    now = confidence_table([0.97, 0.93, 0.72, 0.80, 0.78, 0.60])
    attention = torch.zeros(7, 7, dtype=torch.float64)
    # From query to key, behind the prompt's one position: 2 and 5 depend on 0, 3 and 4 on each other.
    for query, key in [(2, 0), (5, 0), (3, 4), (4, 3)]:
        attention[query + 1, key + 1] = 0.08
    sampler = samplers.dawn(induced=0.7, low=0.75, edge=0.07, sink=0.5)
    assert commits(scripted_model([before, now], attention=attention), sampler, 6) == [{0}, {1, 2, 3}, {4}, {5}]
    # Key 0 draws 0.16 / 7 of the mean attention: as a sink it induces nothing.
    sampler = samplers.dawn(induced=0.7, low=0.75, edge=0.07, sink=0.02)
    assert commits(scripted_model([before, now], attention=attention), sampler, 6)[:2] == [{0}, {1, 3}]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        # Of the row's four masks the weakest two have the mean .35, of the branches' three the weakest has .40 and .70;
        # they were made with 1, .60 and .50.
        ({}, [0, 1]),  # .675, .50, .60: the row itself, and its best mask
        ({"creation": 0.1}, [0, None, 1, 1]),  # .415, .42, .68: the branch with position 2, and its best mask
        ({"branch_score": "mean"}, [0, None, 1]),  # .45, .68, .80, however it was made
    ],
)
def test_lopa_weighs_how_a_branch_was_made_and_its_weakest_half(settings: dict, steps: list) -> None:
    usual = [0.95, 0.60, 0.50, 0.40, 0.30]
    tables = {frozenset(filled): usual for n in range(6) for filled in itertools.combinations(range(5), n)}
    tables[frozenset({0, 1})] = [0.95, 0.60, 0.85, 0.80, 0.40]
    tables[frozenset({0, 2})] = [0.95, 0.70, 0.50, 0.86, 0.84]
    model = wrap(StatefulBackbone({filled: confidence_table(c) for filled, c in tables.items()}))
    found = decode(model, samplers.lopa(0.9, branches=2, **settings), 5).commit_step
    assert all(step is None or step == found[i] for i, step in enumerate(steps))
    assert found.count(1) == max(1, steps.count(1))


def test_lopa_keeps_the_surest_branch() -> None:
    tables = {
        (): [0.95, 0.60, 0.50, 0.40],
        (0,): [0.95, 0.60, 0.50, 0.40],
        (0, 1): [0.95, 0.60, 0.30, 0.30],
        (0, 2): [0.95, 0.92, 0.50, 0.95],
    }
    model = wrap(StatefulBackbone({frozenset(k): confidence_table(c) for k, c in tables.items()}))
    answer = decode(model, samplers.lopa(0.9, branches=2, branch_score="mean"), 4)
    # Branches {0}, {0, 1} and {0, 2}; means of what is left .50, .30 and .935.
    assert answer.commit_step == [0, 1, 1, 1]
    assert (answer.counts.forwards, model.backbone.calls) == (2, 2)
    assert answer.counts.token_forwards == 5 + 3 * 5
    assert answer.confidence == pytest.approx([0.95, 0.92, 0.50, 0.95])


def test_lopa_keeps_the_row_itself_when_nothing_is_surer() -> None:
    tables = {
        (): [0.95, 0.60, 0.50],
        (0,): [0.95, 0.60, 0.50],
        (0, 1): [0.95, 0.60, 0.54],
        (0, 2): [0.95, 0.52, 0.50],
        (0, 1, 2): [0.99, 0.99, 0.99],
    }
    model = wrap(StatefulBackbone({frozenset(k): confidence_table(c) for k, c in tables.items()}))
    answer = decode(model, samplers.lopa(0.9, branches=2, branch_score="mean"), 3)
    # Means .55, .54 and .52; then one position is left, and a branch with nothing left is none.
    assert answer.commit_step == [0, 1, 2]
    assert answer.confidence == pytest.approx([0.95, 0.60, 0.54])
    assert answer.counts.token_forwards == 4 * (1 + 3 + 2)
