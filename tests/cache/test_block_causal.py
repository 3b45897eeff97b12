"""Models with block-causal attention: a finished block is final, and its cache exact (E10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import cache
import samplers
from cache.context import PolicyContext
from cache.run import Run
from dlm.errors import SettingsError
from tests.cache.runs import FAMILIES, PROMPTS, history


def block_causal(family: str, length: int = 4, layers: int = 3) -> Any:
    model = FAMILIES[family](layers=layers)
    model.description = model.backbone.description = replace(model.description, attention_block=length)
    return model


def test_later_blocks_are_not_seen() -> None:
    model = block_causal("llada", 8)
    short = history(model, None, samplers.topk(blocks=samplers.Fixed(8)), prompts=[[7] * 8], new=8)
    long = history(model, None, samplers.topk(blocks=samplers.Fixed(8)), prompts=[[7] * 8], new=24)
    assert long.tokens[0][:8] == short.tokens[0]
    full = history(
        FAMILIES["llada"](layers=3), None, samplers.topk(blocks=samplers.Fixed(8)), prompts=[[7] * 8], new=24
    )
    assert full.tokens != long.tokens


# The attention's own blocks, and blocks inside them.
@pytest.mark.parametrize("length", [None, 4, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_block_cache_is_exact_over_whole_generations(family: str, length: int | None) -> None:
    model = block_causal(family)
    sampler = samplers.threshold(0.3, blocks=samplers.Aligned(length))
    prompts = [*PROMPTS, [7] * 8]
    exact = history(model, cache.none(), sampler, prompts=prompts, batch_size=3)
    cached = history(model, cache.block_causal(), sampler, prompts=prompts, batch_size=3)
    assert cached.differs_at(exact, 1e-9) is None
    assert sum(c.token_forwards for c in cached.counts) < 0.6 * sum(c.token_forwards for c in exact.counts)


@pytest.mark.parametrize("name", ["saber", "remdm", "hierarchy_remask"])
def test_it_is_exact_when_tokens_are_taken_back(name: str) -> None:
    model, sampler = block_causal("llada", 8), getattr(samplers, name)(blocks=samplers.Fixed(8))
    exact = history(model, cache.none(), sampler, prompts=PROMPTS)
    assert history(model, cache.block_causal(), sampler, prompts=PROMPTS).differs_at(exact, 1e-9) is None


@dataclass(frozen=True)
class _Uncommitted(cache.BlockCausal):
    """A finished block keeps the keys of its last step: no pass over the clean block."""

    def open(self, layout: Any) -> Run:
        return _NoStamps(self, layout)

    def active(self, context: PolicyContext, state: Any) -> Any:
        fresh = context.query.blocks.step[:, None] == 0
        return self.visible(context) & (fresh | (context.columns >= context.block_start - 8))


class _NoStamps(Run):
    def _context(self, query: Any) -> PolicyContext:
        context = super()._context(query)
        return replace(context, changed=torch.zeros_like(context.changed))


@dataclass(frozen=True)
class _Late(_Uncommitted):
    def active(self, context: PolicyContext, state: Any) -> Any:
        fresh = context.query.blocks.step[:, None] == 0
        return self.visible(context) & (fresh | (context.columns >= context.block_start))


def test_without_the_pass_over_the_clean_block_it_is_not_exact() -> None:
    model, sampler = block_causal("llada", 8), samplers.topk(blocks=samplers.Fixed(8))
    exact = history(model, cache.none(), sampler, prompts=[[7] * 8])
    assert history(model, _Late(), sampler, prompts=[[7] * 8]).differs_at(exact, 1e-6) is not None
    # The block before fed along at every step is exact again: it is the missing pass that breaks it.
    assert history(model, _Uncommitted(), sampler, prompts=[[7] * 8]).differs_at(exact, 1e-9) is None


def test_prefix_and_dual_are_exact_where_blocks_agree() -> None:
    model, sampler = block_causal("llada", 8), samplers.topk(blocks=samplers.Fixed(8))
    exact = history(model, cache.none(), sampler, prompts=[[7] * 8, [5] * 16])
    for policy in (cache.prefix(), cache.dual()):
        assert history(model, policy, sampler, prompts=[[7] * 8, [5] * 16]).differs_at(exact, 1e-9) is None


def test_full_attention_is_refused() -> None:
    with pytest.raises(SettingsError, match="attention is full; use cache=prefix or dual"):
        history(FAMILIES["llada"](), cache.block_causal())
    with pytest.raises(SettingsError, match="block-causal"):
        history(block_causal("llada"), None, samplers.wino())
    for policy in (cache.dllm(), cache.sparse()):
        with pytest.raises(SettingsError, match="use cache=block_causal"):
            history(block_causal("llada", 8), policy)
