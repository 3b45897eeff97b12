"""Compiled layers: few shapes, the same tokens."""

from __future__ import annotations

import pytest
import torch

import cache
import dlm
import samplers
from cache.run import BUCKETS
from tests.cache.steps import Stepper
from tests.doubles import random_llada


@pytest.mark.slow
def test_compiled_layers_give_the_same_tokens() -> None:
    plain, compiled = (random_llada(dtype=torch.float32, layers=3) for _ in range(2))
    compiled.backbone.compile_blocks()
    assert compiled.backbone.compiled
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    for policy in (cache.dual(), cache.dkv_decode(4)):
        runs = [
            dlm.generate(model, prompts, sampler=samplers.topk(), cache=policy, max_new_tokens=24)
            for model in (plain, compiled)
        ]
        assert [a.tokens for a in runs[0]] == [a.tokens for a in runs[1]]
        assert [a.counts.token_forwards for a in runs[0]] == [a.counts.token_forwards for a in runs[1]]


def test_few_shapes_occur() -> None:
    """The fed lengths of a delayed cache fall one by one; compiled code sees buckets only."""
    stepper = Stepper(random_llada(), cache.dkv_decode(10**6), [[1, 2, 3]], new=40, block=40, static=True)
    stepper.forward()
    stepper.finish()
    seen, fed = set(), set()
    for place in range(3, 43):
        stepper.commit({place: 5})
        stepper.forward()
        stepper.finish()
        seen.add(stepper.plan.feeds[0].tokens.shape[1])
        fed.add(stepper.plan.counts[0])
    assert len(fed) > 30
    assert seen <= {*BUCKETS, 43, 44}
