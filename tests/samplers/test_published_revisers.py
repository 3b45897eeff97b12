"""Examples of the published rules, worked out by hand: samplers that take committed tokens back."""

from __future__ import annotations

import pytest

import samplers
from dlm.errors import SettingsError
from tests.doubles import confidence_table, scripted_model, table_model
from tests.samplers.runs import decode, history

_ = 0.5  # nobody reads it


def tables(*script: list[float]) -> list[list[list[float]]]:
    return [confidence_table(confidences) for confidences in script]


WINO = [
    [0.95, 0.70, 0.50, 0.65, 0.40],
    [_, _, 0.80, _, 0.62],
    [_, 0.92, _, 0.88, _],
    [_, _, _, _, 0.70],
]


def test_wino() -> None:
    shadows = [[_] * 5, [0.97, 0.40, _, 0.85, _], [0.97, _, 0.91, _, 0.50], [0.0] * 5]
    model = scripted_model(tables(*WINO), shadows)
    answer = decode(model, samplers.wino(0.6, 0.9), 5)
    assert history(answer) == [({0, 1, 3}, set()), ({2, 4}, {1, 3}), ({1, 3}, {4}), ({4}, set())]
    assert answer.counts.forwards == 4
    # Every forward is as long as the row and a copy of the block.
    assert answer.counts.token_forwards == 4 * (6 + 5)


def test_wino_takes_back_fewer_than_it_accepted() -> None:
    shadows = [[_] * 5, [0.80, 0.40, _, 0.85, _], [0.99] * 5]
    script = [WINO[0], WINO[1], [0.92, 0.92, _, _, _]]
    answer = decode(scripted_model(tables(*script), shadows), samplers.wino(0.6, 0.9), 5)
    assert history(answer) == [({0, 1, 3}, set()), ({2, 4}, {0, 1}), ({0, 1}, set())]


@pytest.mark.parametrize(("positions", "first"), [(6, 5), (10, 7), (40, 20)])
def test_wino_accepts_no_more_than_its_share(positions: int, first: int) -> None:
    """floor(.7 n) positions, at least 5 and at most 20."""
    model = scripted_model(tables([0.95] * positions), [[0.99] * positions])
    steps = history(decode(model, samplers.wino(0.6, 0.9), positions))
    assert len(steps[0][0]) == first


def test_hierarchy_with_remasking() -> None:
    script = tables(
        [0.95, 0.95, 0.10, 0.10, 0.10, 0.10],
        [0.97, 0.30, 0.95, 0.50, 0.45, 0.20],
        [0.97, 0.95, 0.95, 0.95, 0.95, 0.95],
    )
    answer = decode(scripted_model(script), samplers.hierarchy_remask(0.4, 0.9, doubt=0.4), 6)
    assert history(answer) == [({0, 1}, set()), ({2, 3}, {1}), ({1, 4, 5}, set())]


def test_saber() -> None:
    script = tables([0.9, 0.6, 0.5, 0.4], [0.9, 0.7, 0.55, 0.8], [0.9, 0.7, 0.9, 0.8])
    answer = decode(scripted_model(script), samplers.saber(2, precision="float64"), 4)
    assert history(answer) == [({0, 1}, {1}), ({1, 3}, {0}), ({0, 2}, set())]
    assert answer.counts.forwards == 3


@pytest.mark.parametrize(("cycles", "number"), [(1, 1), (3, 1), (4, 2)])
def test_remdm_fills_seven_eighths_then_cycles(cycles: int, number: int) -> None:
    model = table_model(confidence_table([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]))
    answer = decode(model, samplers.remdm(cycles=cycles, number=number), 8)
    # The lowest stored confidences go and, the model being frozen, come back.
    lowest = {7 - n for n in range(1, number + 1)}
    filling = [({i}, set()) for i in range(6)]
    loop = [({6}, lowest), *[(lowest, lowest)] * (cycles - 1), (lowest, set())]
    assert history(answer) == [*filling, *loop, ({7}, set())]
    assert answer.counts.forwards == model.backbone.calls == 8 + cycles


def test_rcr_open_positions_compete_with_their_present_confidence() -> None:
    script = tables([0.6, 0.5, 0.4, 0.3], [0.1, 0.58, 0.9, 0.3], [0.1, 0.1, 0.1, 0.55], [0.1, 0.7, 0.1, 0.1])
    answer = decode(scripted_model(script), samplers.rcr(), 4)
    assert history(answer) == [({0}, set()), ({2}, set()), ({3}, set()), ({1}, set())]


def test_rcr_takes_back_what_open_positions_outdo() -> None:
    script = tables([0.6, 0.5, 0.4], [0.1, 0.9, 0.7], [0.8, 0.1, 0.1])
    answer = decode(scripted_model(script), samplers.rcr(), 3)
    assert history(answer) == [({0}, set()), ({1, 2}, {0}), ({0}, set())]


def test_earlier_blocks_compete_as_published() -> None:
    """Position 1, committed in the first block, is less sure than both positions of the second."""
    script = tables([0.9, 0.5, 0.9, 0.9], [0.9, 0.5, 0.9, 0.9], [0.9, 0.6, 0.8, 0.7], [0.9, 0.6, 0.8, 0.7])
    blocks = samplers.Fixed(2)
    clean = decode(scripted_model(script), samplers.rcr(steps=4, blocks=blocks), 4)
    assert history(clean) == [({0}, set()), ({1}, set()), ({2}, set()), ({3}, set())]
    published = decode(scripted_model(script), samplers.rcr(steps=4, blocks=blocks, compat="reference"), 4)
    assert history(published) == [({0}, set()), ({1}, set()), ({2, 3}, {1}), ({1}, set())]


def test_saber_takes_nothing_back_once_a_block_is_full() -> None:
    script = tables([0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6])
    answer = decode(scripted_model(script), samplers.saber(2, blocks=samplers.Fixed(2)), 4)
    assert history(answer) == [({0, 1}, set()), ({2, 3}, set())]


def test_blocks_that_do_not_reopen_are_refused() -> None:
    with pytest.raises(SettingsError, match="SlidingBlocks does not let reopen: use blocks=fixed or whole"):
        samplers.rcr(compat="reference", blocks=samplers.SlidingBlocks(8))


def test_what_is_taken_back_is_ranked_to_the_last_bit() -> None:
    """Two commits whose probabilities are one number in float32: the less sure one gives way, not the first or last."""
    near = 0.7 + 2e-9
    script = tables([0.7, near, 0.2, 0.1], [0.7, near, 0.2, 0.1], [0.7, near, 0.95, 0.95], [0.9, 0.9, 0.9, 0.9])
    answer = decode(scripted_model(script), samplers.rcr(precision="float64"), 4)
    assert [taken for _, taken in history(answer) if taken] == [{0}]
    table = confidence_table([0.9, 0.8, 0.75, 0.74, 0.73, 0.3 + 2e-9, 0.3, 0.2])
    answer = decode(table_model(table), samplers.remdm(cycles=1, precision="float64"), 8)
    assert [taken for _, taken in history(answer) if taken] == [{6}]
