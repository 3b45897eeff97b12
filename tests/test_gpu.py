"""Checks that need a CUDA device (`make test-gpu`): the answers of the CPU, and no hidden waiting for the device."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import cache
import dlm
import dlm.api
import samplers
from dlm.engine.loop import Decoder, StepEvent
from dlm.models import random_model
from dlm.speculation import FreeDave
from tests.doubles import random_dream, random_llada
from tests.test_decoder import FAMILIES, PRESETS, preset

pytestmark = pytest.mark.gpu


def on_gpu(model: Any) -> Any:
    model.backbone = model.backbone.to("cuda")
    model.device = torch.device("cuda")
    return model


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("family", [random_llada, random_dream])
def test_equals_the_cpu_in_float64(name: str, family: Any) -> None:
    if family is random_dream and "dream" not in FAMILIES.get(name, ["dream"]):
        family = random_llada
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    options = {"sampler": preset(name, temperature=0.7), "max_new_tokens": 8, "batch_size": 2}
    here = dlm.generate(family(), prompts, **options)
    there = dlm.generate(on_gpu(family()), prompts, **options)
    assert [(a.tokens, a.commit_step) for a in here] == [(a.tokens, a.commit_step) for a in there]


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"slowfast"}))  # it tells the host where to cut
def test_a_step_waits_for_the_device_once(name: str) -> None:
    model = on_gpu(random_llada())
    decoder = Decoder(model.backbone, model.description, preset(name))
    jobs = dlm.api.keyed([dlm.api.prompt_job(model, 0, [1, 2, 3], 20, {})], 0)
    for _ in decoder.run(jobs, 1, model.device):
        pass  # layouts of probes are copied to the device when a number of versions comes up for the first time
    steps = decoder.run(jobs, 1, model.device)
    assert isinstance(next(steps), StepEvent)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for _ in range(3):
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                event = next(steps, None)
            if isinstance(event, StepEvent) and not event.rows[0].exiting:
                assert len(waits) <= 1, [f"{w.filename}:{w.lineno}" for w in waits]
    finally:
        torch.cuda.set_sync_debug_mode("default")


CACHES = {name: getattr(cache, name)() for name in cache.PRESETS if name not in ("none", "block_causal", "dkv_greedy")}
CACHES |= {"vicinity": cache.vicinity(2, 2, 1), "window": cache.window(ahead=4), "recap": cache.recap(2, 3)}
CACHES |= {"adaptive": cache.adaptive(before=2, after=2)}


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("family", [random_llada, random_dream])
def test_a_cache_equals_the_cpu_in_float64(name: str, family: Any) -> None:
    prompts = [[1, 2, 3], [4] * 9, [5, 6, 7, 8, 9]]
    sampler = samplers.threshold(0.3, blocks=samplers.Fixed(4))
    options = {"sampler": sampler, "cache": CACHES[name], "max_new_tokens": 12, "batch_size": 2}
    here = dlm.generate(family(), prompts, **options)
    there = dlm.generate(on_gpu(family()), prompts, **options)
    assert [(a.tokens, a.commit_step) for a in here] == [(a.tokens, a.commit_step) for a in there]
    assert [a.counts.token_forwards for a in here] == [a.counts.token_forwards for a in there]


@pytest.mark.parametrize("name", ["prefix", "dual", "vicinity", "dkv_decode", "freecache", "window", "adaptive"])
def test_a_cached_step_waits_for_the_device_twice(name: str) -> None:
    """For the number of fed positions, right after the last step was waited for, and at its end."""
    model = on_gpu(random_llada())
    jobs = dlm.api.keyed([dlm.api.prompt_job(model, 0, [1, 2, 3], 32, {})], 0)
    decoder = Decoder(model.backbone, model.description, preset("topk"), CACHES[name])
    steps = decoder.run(jobs, 1, model.device)
    assert isinstance(next(steps), StepEvent)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for _ in range(3):
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                next(steps)
            assert len(waits) <= 2, [str(w.message) for w in waits]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layout", ["batch", "tree"])
@pytest.mark.parametrize("name", ["none", "dual", "dkv_decode", "freecache", "window"])
@pytest.mark.parametrize("family", [random_llada, random_dream])
def test_drafts_change_nothing_in_float64(name: str, family: Any, layout: Any) -> None:
    prompts = [[1, 2, 3], [4] * 9, [5, 6, 7, 8, 9]]
    options = {"sampler": samplers.topk(blocks=samplers.Fixed(8)), "max_new_tokens": 16, "batch_size": 2}
    options["cache"] = CACHES.get(name)
    plain = dlm.generate(on_gpu(family()), prompts, **options)
    for drafter in (FreeDave(4, layout), FreeDave("auto", layout)):
        drafted = dlm.generate(on_gpu(family()), prompts, drafter=drafter, **options)
        assert [a.tokens for a in drafted] == [a.tokens for a in plain]
        assert [a.counts.forwards + a.counts.accepted_drafts for a in drafted] == [a.counts.forwards for a in plain]


def test_compiled_layers_give_the_same_tokens() -> None:
    plain, compiled = (on_gpu(random_llada(dtype=torch.float32)) for _ in range(2))
    compiled.backbone.compile_blocks()
    options = {"sampler": samplers.topk(), "cache": cache.dual(), "max_new_tokens": 16}
    runs = [dlm.generate(model, [[1, 2], [3, 4, 5]], **options) for model in (plain, compiled)]
    assert [a.tokens for a in runs[0]] == [a.tokens for a in runs[1]]


def test_bfloat16_decodes_to_the_end() -> None:
    config = random_llada().backbone.config
    model = random_model(config, device="cuda", dtype="bfloat16")
    answers = dlm.generate(model, [[1], [2, 3]], sampler=samplers.threshold(0.5), max_new_tokens=16)
    assert all(model.description.mask_id not in a.tokens for a in answers)
    assert all(a.counts.seconds_step > 0 for a in answers)
