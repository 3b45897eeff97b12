"""Positions fed, against closed forms, and against the ratios they make at a long prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import cache
import samplers
from tests.cache.runs import FAMILIES, history

PROMPT, NEW, BLOCK = 13, 32, 8
LENGTH, BLOCKS = PROMPT + NEW, NEW // BLOCK


def steps(n: int) -> list[tuple[int, int, int]]:
    """(global step, block, step in the block) with n tokens per step."""
    m = BLOCK // n
    return [(j * m + i, j, i) for j in range(BLOCKS) for i in range(m)]


def seeded(n: int, r: int) -> int:
    return sum(LENGTH if t % r == 0 else NEW - n * max(0, t - 1) for t, _, _ in steps(n))


def reference(n: int, r: int) -> int:
    return sum(LENGTH if i <= 1 or i % r == 0 else NEW - n * max(0, t - 1) for t, _, i in steps(n))


def freed(n: int) -> int:
    # Block j - 1 is fed once more in the first step of block j, then it is frozen.
    return LENGTH + sum(NEW - (j if i else max(0, j - 1)) * BLOCK for t, j, i in steps(n) if t)


EXPECTED: dict[str, tuple[cache.Policy | None, Callable[[int], int]]] = {
    "none": (None, lambda n: len(steps(n)) * LENGTH),
    "prefix": (cache.prefix(), lambda n: sum(LENGTH if i == 0 else NEW - j * BLOCK for _, j, i in steps(n))),
    "dual": (cache.dual(), lambda n: sum(LENGTH if i == 0 else BLOCK for _, _, i in steps(n))),
    "vicinity": (
        cache.vicinity(4, 4, warmup=0),
        lambda n: sum(LENGTH if i == 0 else BLOCK + 4 + (4 if j + 1 < BLOCKS else 0) for _, j, i in steps(n)),
    ),
    "dkv_decode": (cache.dkv_decode(8), lambda n: seeded(n, 8)),
    "dkv_reference": (cache.dkv_decode(8, "reference"), lambda n: reference(n, 8)),
    "dkv_prefill": (cache.dkv_prefill(), lambda n: LENGTH + (len(steps(n)) - 1) * NEW),
    "freecache": (cache.freecache(), freed),
    # The third step is the first to know what stood still; what is committed is fed once more.
    "surelock": (
        cache.surelock(1e9),
        lambda n: sum(LENGTH if t < 2 else NEW - n * (t - 1) for t, _, _ in steps(n)),
    ),
    "surelock_never": (cache.surelock(0.0), lambda n: len(steps(n)) * LENGTH),
    # The step after a block is full is a refresh, and the next one feeds that block for the last time.
    "delayed_prefix": (
        cache.delayed_prefix(1, BLOCK),
        lambda n: sum(
            LENGTH if i == 0 and (j > 0 or t == 0) else NEW - (j - (i == 1 and j > 0)) * BLOCK for t, j, i in steps(n)
        ),
    ),
    "sparse": (cache.sparse(), lambda n: sum(LENGTH if i <= 1 else BLOCK for _, _, i in steps(n))),
}


@pytest.mark.parametrize("tokens_per_step", [1, 2, 4])
@pytest.mark.parametrize("name", EXPECTED)
def test_positions_fed_are_those_of_the_closed_form(name: str, tokens_per_step: int) -> None:
    policy, expected = EXPECTED[name]
    sampler = samplers.topk(tokens_per_step=tokens_per_step, blocks=samplers.Fixed(BLOCK))
    run = history(FAMILIES["llada"](), policy, sampler, prompts=[[7] * PROMPT], new=NEW)
    assert run.counts[0].token_forwards == expected(tokens_per_step)


def test_greedy_feeds_the_last_the_next_and_the_window() -> None:
    sampler = samplers.random(blocks=samplers.Fixed(BLOCK))
    run = history(FAMILIES["llada"](), cache.dkv_greedy(2, 0), sampler, prompts=[[7] * PROMPT], new=NEW)
    assert run.counts[0].token_forwards == sum(LENGTH if i % 2 == 0 else 2 for _, _, i in steps(1))


def test_table_of_average_positions() -> None:
    """Prompt 800, generation 256, blocks of 32, one token per step: rows per step as published in 1.3."""
    P, G, b = 800, 256, 32
    L, T, N = P + G, 256, 8
    average = {
        "prefix": sum(L + (b - 1) * (G - j * b) for j in range(N)) / T,
        "dual": N * (L + (b - 1) * b) / T,
        "seeded": sum(L if t % 8 == 0 else G - max(0, t - 1) for t in range(T)) / T,
    }
    assert [round(x, 1) for x in average.values()] == [172.5, 64.0, pytest.approx(245, abs=0.6)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", sorted(set(cache.PRESETS) - {"none", "block_causal"}))
def test_no_cache_feeds_more_than_everything(name: str) -> None:
    """Also what checks the shapes of every policy (make test-shapes)."""
    policy = cache.window(ahead=8) if name == "window" else getattr(cache, name)()
    model, sampler = FAMILIES["dream"](), samplers.random(blocks=samplers.Fixed(BLOCK))
    prompts = [[7] * PROMPT, [3] * 4, [5, 6]]
    exact = history(model, None, sampler, prompts=prompts, new=NEW, batch_size=2)
    cached = history(model, policy, sampler, prompts=prompts, new=NEW, batch_size=2)
    for mine, theirs in zip(cached.counts, exact.counts, strict=True):
        assert mine.forwards == theirs.forwards
        assert mine.token_forwards < theirs.token_forwards


def test_a_step_books_its_refresh_apart() -> None:
    counts = history(FAMILIES["llada"](), cache.dual()).counts[0]
    assert counts.seconds_refresh > 0
    assert counts.seconds_step > 0
    assert counts.seconds == pytest.approx(counts.seconds_refresh + counts.seconds_step + counts.seconds_sampler)
    assert history(FAMILIES["llada"](), None).counts[0].seconds_refresh == 0
