"""The noise streams: addressed, uniform, independent of the batch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dlm.engine.noise import Purpose, gumbel, row_key, uniform

KEYS = st.integers(-(2**63), 2**63 - 1)


def draw(
    keys: list[int], steps: list[int], positions: list[list[int]], purpose: Purpose = Purpose.TOKEN
) -> torch.Tensor:
    return uniform(torch.tensor(keys), torch.tensor(steps), purpose, torch.tensor(positions))


@given(KEYS, st.integers(0, 10_000), st.lists(st.integers(0, 5_000), min_size=1, max_size=5))
def test_a_draw_depends_on_its_address_alone(key: int, step: int, positions: list[int]) -> None:
    alone = draw([key], [step], [positions])[0]
    among = draw([key + 1 if key < 2**62 else key - 1, key], [step + 1, step], [positions, positions])[1]
    assert torch.equal(alone, among)
    assert torch.equal(draw([key], [step], [positions[::-1]])[0], alone.flip(0))


def test_draws_are_uniform_and_purposes_independent() -> None:
    positions = [list(range(20_000))]
    tokens = draw([row_key(0, [1, 2, 3])], [0], positions)[0]
    scores = draw([row_key(0, [1, 2, 3])], [0], positions, Purpose.SCORE)[0]
    assert 0 < tokens.min() and tokens.max() < 1
    # 10 bins of 2,000: chi-square with 9 degrees of freedom stays below 27.9 with probability .999.
    for sample in (tokens, scores):
        counts = torch.histc(sample, bins=10, min=0, max=1)
        assert ((counts - 2000) ** 2 / 2000).sum() < 27.9
    assert abs(torch.corrcoef(torch.stack([tokens, scores]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([tokens[1:], tokens[:-1]]))[0, 1]) < 0.03


def test_streams_differ_by_seed_row_copy_and_step() -> None:
    keys = [row_key(0, [5, 6]), row_key(1, [5, 6]), row_key(0, [6, 5]), row_key(0, [5, 6], repeat=1)]
    assert len(set(keys)) == 4
    steps = draw([keys[0]] * 2, [0, 1], [[7], [7]])
    assert steps[0, 0] != steps[1, 0]


def test_gumbel_has_the_gumbel_mean() -> None:
    noise = gumbel(draw([3], [0], [list(range(20_000))])[0])
    assert abs(noise.mean() - 0.5772) < 0.03
