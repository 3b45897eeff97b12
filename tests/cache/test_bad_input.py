"""Settings that cannot work, and pairs that do not go together: one error that says what to change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.errors import OutOfMemoryError, PromptError, SettingsError
from tests.cache.runs import FAMILIES, PROMPTS, history
from tests.doubles import random_llada, table_model


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dkv_decode", {"interval": 0}, "interval must be a whole number of at least 1, got 0"),
        ("dkv_decode", {"interval": 2.5}, "interval must be a whole number"),
        ("dkv_decode", {"cadence": "often"}, "cadence must be 'seeded' or 'reference'"),
        ("dkv_decode", {"ahead": -1}, "ahead must be a whole number of at least 0"),
        ("dkv_greedy", {"interval": 0}, "interval must be"),
        ("dkv_greedy", {"window": -1}, "window must be"),
        ("dkv_pd", {"interval": 0}, "interval must be"),
        ("dual", {"every": 0}, "every must be"),
        ("vicinity", {"before": -1}, "before must be"),
        ("vicinity", {"every": 0}, "every must be"),
        ("dllm", {"interval": 0}, "interval must be"),
        ("dllm", {"prompt_interval": 0}, "prompt_interval must be"),
        ("dllm", {"ratio": 1.5}, r"ratio is a share and must be in \[0, 1\], got 1.5"),
        ("sparse", {"keep": 0.0}, "keep is a share and must be above 0"),
        ("sparse", {"kernel": 2}, "kernel must be an odd number of positions, got 2"),
        ("window", {"ahead": -1}, "ahead must be"),
        ("window", {"ahead": 10**30}, "ahead must be at most 2147483647"),
        ("vicinity", {"compat": "both"}, "compat must be 'clean' or 'reference'"),
        ("window", {"inner": cache.sparse()}, "window cannot be laid around Sparse"),
        ("window", {"inner": cache.recap()}, "window cannot be laid around Recap"),
        ("window", {"inner": cache.window()}, "window cannot be laid around Window"),
        ("entropy", {"threshold": -1.0}, "threshold is an entropy in nats"),
        ("entropy", {"recent": 0}, "recent must be"),
        ("adaptive", {"every_tokens": 0}, "every_tokens must be"),
        ("recap", {"local_steps": 0}, "local_steps must be"),
        ("recap", {"positions": 0}, "positions must be"),
        ("d2cache", {"masks": 0}, "masks must be"),
        ("d2cache", {"rollout": 0.0}, "rollout is a share"),
        ("d2cache", {"sigma": 0.0}, "sigma is a width in positions"),
        ("dsb", {"every_tokens": 0}, "every_tokens must be"),
        ("delayed_prefix", {"delay": 0}, "delay must be"),
        ("surelock", {"bound": -1.0}, "bound is a divergence in nats"),
        ("elastic", {"window": 0}, "window must be"),
        ("elastic", {"gamma": 1.1}, "gamma is a cosine similarity"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        getattr(cache, name)(**settings)


@pytest.mark.parametrize(
    ("wide", "all_of_it"),
    [
        (cache.vicinity(10**6, 2**31 - 1), cache.vicinity(None, None)),
        (cache.window(ahead=10**9), cache.window(ahead=31)),
        (cache.window(cache.vicinity(10**9), 2**31 - 1), cache.window(cache.vicinity(None), 31)),
        (cache.dkv_decode(ahead=10**9), cache.dkv_decode(ahead=30)),
        (cache.recap(positions=10**9), cache.recap(positions=30)),
    ],
)
def test_a_window_wider_than_the_row_is_all_of_it(wide: Any, all_of_it: Any) -> None:
    ours, theirs = (history(FAMILIES["llada"](), policy) for policy in (wide, all_of_it))
    assert ours.steps == theirs.steps
    assert [c.token_forwards for c in ours.counts] == [c.token_forwards for c in theirs.counts]


def test_a_cache_that_must_know_the_order() -> None:
    for sampler in (samplers.topk(), samplers.threshold(), samplers.prophet(), samplers.random(suppress_end=True)):
        with pytest.raises(SettingsError, match="must know before a forward which positions it will commit"):
            history(FAMILIES["llada"](), cache.dkv_greedy(), sampler)


STEADY = ["prefix", "dual", "vicinity", "dkv_decode", "dkv_prefill", "freecache", "sparse", "entropy", "adaptive"]


@pytest.mark.parametrize(
    ("sampler", "caches", "message"),
    [
        (samplers.lopa(), ["dllm", "sparse", "recap", "d2cache", "surelock", "elastic"], "look-ahead branches"),
        (samplers.dawn(), [*STEADY, "dllm", "recap"], "attention of the whole row"),
        (samplers.klass(), ["dllm", "recap", "dkv_greedy", "d2cache", "elastic"], "would pass for stable"),
        (samplers.ccd(), ["dllm", "recap"], "would pass for stable"),
        (samplers.wino(), ["dllm", "sparse", "d2cache", "elastic"], "shadow block"),
    ],
)
def test_pairs_that_are_refused(sampler: Any, caches: list[str], message: str) -> None:
    for name in caches:
        with pytest.raises(SettingsError, match=message):
            history(FAMILIES["llada"](), getattr(cache, name)(), sampler)


def test_a_prompt_that_outgrows_the_model() -> None:
    with pytest.raises(PromptError, match="context of 256"):
        dlm.generate(random_llada(), [[1] * 250], sampler=samplers.topk(), cache=cache.dual(), max_new_tokens=16)


def test_a_model_that_has_no_layers_to_cache() -> None:
    model = table_model([[0.9, 0.1]] * 4)
    with pytest.raises(SettingsError, match="does not take a cache"):
        dlm.generate(model, [[1]], sampler=samplers.topk(), cache=cache.dual(), max_new_tokens=2)


class _Cramped:
    """A backbone that runs out of memory when more than ``rows`` rows are fed for the ``after``-th time."""

    compiled = False

    def __init__(self, inner: Any, rows: int, after: int) -> None:
        self.inner, self.rows, self.left = inner, rows, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def hidden(self, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.left -= 1
        if tokens.shape[0] > self.rows and self.left < 0:
            self.inner.hidden(tokens, *rest)  # it fails after it has written to the store
            raise torch.OutOfMemoryError("out of memory")
        return self.inner.hidden(tokens, *rest)


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("after", [0, 1, 6])
@pytest.mark.parametrize("name", ["dual", "dkv_decode", "sparse", "adaptive"])
def test_out_of_memory_halves_the_batch_and_changes_no_answer(name: str, after: int) -> None:
    prompts = [*PROMPTS, [30, 2]]
    policy = getattr(cache, name)() if name != "adaptive" else cache.adaptive(before=2, after=2)
    sampler = samplers.threshold(0.3, blocks=samplers.Fixed(8))
    expected = history(random_llada(), policy, sampler, prompts=prompts)
    model = random_llada()
    model.backbone = _Cramped(model.backbone, 2, after)
    cramped = history(model, policy, sampler, prompts=prompts, batch_size=4)
    assert cramped.tokens == expected.tokens
    assert [c.token_forwards for c in cramped.counts] == [c.token_forwards for c in expected.counts]


def test_one_row_that_does_not_fit() -> None:
    model = random_llada()
    model.backbone = _Cramped(model.backbone, 0, 0)
    with pytest.raises(OutOfMemoryError, match="prompt 0 alone"):
        history(model, cache.dual())
