"""Where a cache must equal another, or no cache at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import cache
import samplers
from cache.context import PolicyContext
from cache.run import Run
from tests.cache.runs import FAMILIES, PROMPTS, history, one_layer
from tests.cache.steps import Stepper

ALWAYS = {
    "dkv_decode": cache.dkv_decode(interval=1),
    "dual": cache.dual(every=1),
    "vicinity": cache.vicinity(None, None),
    "dllm": cache.dllm(1, 1),
    "dkv_reference": cache.dkv_decode(interval=1, cadence="reference"),
}


@pytest.mark.covering
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ALWAYS)
def test_a_cache_that_always_refreshes_is_no_cache_bit_by_bit(name: str, family: str, dtype: torch.dtype) -> None:
    model = FAMILIES[family](dtype=dtype)
    assert history(model, ALWAYS[name]).differs_at(history(model, None)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_that_always_refreshes_is_no_cache(family: str) -> None:
    model, sampler = FAMILIES[family](), samplers.random(blocks=samplers.Fixed(8))
    assert history(model, cache.dkv_greedy(1), sampler).differs_at(history(model, None, sampler)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_at_their_limits_are_the_other_caches(family: str) -> None:
    model = FAMILIES[family]()
    dual = history(model, cache.dual())
    assert history(model, cache.vicinity(0, 0, warmup=0)).differs_at(dual) is None
    prefix = history(model, cache.prefix())
    assert history(model, cache.vicinity(0, None, warmup=0)).differs_at(prefix) is None
    assert prefix.differs_at(dual, 1e-9) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_one_block_makes_prefix_dual_and_prefill_equal(family: str) -> None:
    model, sampler = FAMILIES[family](), samplers.topk(blocks=samplers.Whole())
    prefix = history(model, cache.prefix(), sampler)
    assert history(model, cache.dual(), sampler).differs_at(prefix) is None
    assert history(model, cache.dkv_prefill(), sampler).differs_at(prefix, 1e-9) is None
    features = history(model, cache.dllm(10**6, 1, 0.0), sampler)
    if family == "llada":  # a shifted model's prefix cache recomputes the prompt's last row, the feature cache does not
        assert features.differs_at(prefix, 1e-9) is None
    assert history(model, cache.dkv_pd(1), sampler).differs_at(prefix, 1e-9) is None


def test_features_of_a_share_of_one_are_those_of_interval_one() -> None:
    model = FAMILIES["llada"]()
    every = history(model, cache.dllm(5, 1))
    assert history(model, cache.dllm(5, 4, 1.0)).differs_at(every, 1e-9) is None
    assert history(model, cache.dllm(5, 4, 0.25)).differs_at(every, 1e-9) is not None


def test_greedy_with_an_endless_window_is_the_delayed_cache() -> None:
    model, sampler = FAMILIES["llada"](), samplers.random(blocks=samplers.Whole())
    greedy = history(model, cache.dkv_greedy(10**6, window=30), sampler)
    delayed = history(model, cache.dkv_decode(10**6), sampler)
    assert greedy.tokens == delayed.tokens
    assert [s.tokens for s in greedy.steps[0]] == [s.tokens for s in delayed.steps[0]]


@dataclass(frozen=True)
class _LateDual(cache.Dual):
    """Dual, refreshed at the first two steps of a block, as Sparse is."""

    def refreshes(self, row: Any) -> bool:
        return row.block_steps <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_that_evicts_nothing_is_dual(family: str) -> None:
    model = FAMILIES[family]()
    late = history(model, _LateDual())
    assert history(model, cache.sparse(1.0)).differs_at(late, 1e-9) is None
    assert history(model, cache.sparse(0.5)).differs_at(late, 1e-9) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_that_hides_nothing_is_its_inner_cache(family: str) -> None:
    model = FAMILIES[family]()
    inner = history(model, cache.dual())
    assert history(model, cache.window(cache.dual(), 20)).differs_at(inner, 1e-9) is None
    assert history(model, cache.window(cache.dual(), 4)).differs_at(inner, 1e-9) is not None


# E4: on one layer every policy that obeys the stamp rule is exact, whatever the order and the blocks.
STAMPED = {
    "prefix": cache.prefix(),
    "dual": cache.dual(),
    "vicinity": cache.vicinity(2, 2, 1),
    "dkv_decode": cache.dkv_decode(4),
    "dkv_endless": cache.dkv_decode(10**6),
    "dkv_reference": cache.dkv_decode(4, "reference"),
    "dkv_capped": cache.dkv_decode(4, ahead=3),
    "dkv_prefill": cache.dkv_prefill(),
    "dkv_pd": cache.dkv_pd(4),
    "dllm": cache.dllm(9, 5),
    "freecache": cache.freecache(),
    "sparse": cache.sparse(1.0),
    "window": cache.window(cache.dual(), 20),
    "entropy": cache.entropy(0.5),
    "adaptive": cache.adaptive(every_tokens=5),
    "d2cache": cache.d2cache(),
    "surelock": cache.surelock(bound=0.05),
    "dsb": cache.dsb(before=2, every_tokens=5),
    "elastic": cache.elastic(window=64),
    "delayed_prefix": cache.delayed_prefix(1, 8, every=5),
    "dsb_trailing": cache.dsb(before=2, after=None, every_tokens=5, trailing=True),
}
ORDERS = {
    "surest": samplers.topk(blocks=samplers.Fixed(8)),
    "random": samplers.random(blocks=samplers.Fixed(8)),
    "random_whole": samplers.random(blocks=samplers.Whole()),
    "threshold": samplers.threshold(0.2, blocks=samplers.Fixed(8)),
}


@pytest.mark.covering
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", STAMPED)
def test_one_layer_oracle(name: str, family: str, order: str) -> None:
    model = one_layer(family)
    exact = history(model, None, ORDERS[order], prompts=PROMPTS)
    assert history(model, STAMPED[name], ORDERS[order], prompts=PROMPTS).differs_at(exact, 1e-9) is None


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("interval", [2, 10**6])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer_oracle_of_the_greedy_cache(family: str, interval: int, window: int) -> None:
    model, sampler = one_layer(family), ORDERS["random"]
    exact, greedy = history(model, None, sampler), history(model, cache.dkv_greedy(interval, window), sampler)
    # Only what it will commit is proposed for between refreshes; there the two agree.
    for a, b in zip(exact.steps[0], greedy.steps[0], strict=True):
        assert a.tokens == b.tokens
        for place, (token, prob) in b.proposals.items():
            assert (token, pytest.approx(prob, abs=1e-9)) == a.proposals[place]


# E12: negative controls. Each breaks one rule, and the one-layer oracle must see it.
class _Undelayed(Run):
    """Stamps that are made real at the commit: nothing is ever fed with its token."""

    def end(self, view: Any, chosen: Any) -> dict:
        report = super().end(view, chosen)
        self.stamps = view.canvas.tokens.clone()
        return report


@dataclass(frozen=True)
class _NoDelay(cache.DKVDecode):
    def open(self, layout: Any) -> Run:
        return _Undelayed(self, layout)


class _RowsOnly(Run):
    """Feeds what the policy says and nothing else."""

    def _context(self, query: Any) -> PolicyContext:
        context = super()._context(query)
        return PolicyContext(
            query, torch.zeros_like(context.changed), context.live, context.shift, context.attention_block
        )

    def foresee(self, query: Any) -> None:
        """What has changed is not fed here."""


@dataclass(frozen=True)
class _ShortWindow(cache.Dual):
    """Dream's window [start - 1, end - 1) as d2Cache and dInfer have it: row end - 1 is never recomputed."""

    def open(self, layout: Any) -> Run:
        return _RowsOnly(self, layout)

    def active(self, context: PolicyContext, state: Any) -> Any:
        return context.span(context.block_start, context.block_end - 1)


@dataclass(frozen=True)
class _Undecided(cache.DKVDecode):
    """Dream's "un": a position is frozen as soon as the next one is decided, even while it is a mask itself."""

    def open(self, layout: Any) -> Run:
        return _RowsOnly(self, layout)

    def active(self, context: PolicyContext, state: Any) -> Any:
        masked = context.query.canvas.masked
        return torch.nn.functional.pad(masked[:, 1:], (0, 1)) & context.live


@dataclass(frozen=True)
class _FrozenAtOnce(cache.FreeCache):
    """FreeCache as released: a finished block is frozen with the keys of its last step."""

    def open(self, layout: Any) -> Run:
        return _RowsOnly(self, layout)

    def active(self, context: PolicyContext, state: Any) -> Any:
        return context.live & (context.columns >= context.block_start)


CONTROLS = {
    "no delay": (_NoDelay(10**6), "llada"),
    "short window": (_ShortWindow(), "dream"),
    "un": (_Undecided(10**6), "dream"),
    "frozen at once": (_FrozenAtOnce(), "llada"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_oracle_sees_a_broken_cache(name: str) -> None:
    broken, family = CONTROLS[name]
    model, sampler = one_layer(family), ORDERS["random"]
    exact = history(model, None, sampler, new=32)
    assert history(model, broken, sampler, new=32).differs_at(exact, 1e-6) is not None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["dual", "dkv_decode", "prefix", "dkv_prefill", "dllm"])
def test_a_step_right_after_a_refresh_of_the_same_canvas_changes_nothing(name: str, family: str) -> None:
    stepper = Stepper(FAMILIES[family](), getattr(cache, name)(), PROMPTS)
    exact = stepper.forward()
    assert stepper.plan.refreshed == {0, 1, 2}
    stepper.finish()  # without a commit
    again = stepper.forward()
    assert sum(stepper.plan.counts) < sum(row.visible_end for row in stepper.rows)
    assert torch.allclose(again, exact, atol=1e-9)
