"""A run owns its state: runs of one decoder do not touch each other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.api import keyed, prompt_job
from dlm.engine.loop import Decoder
from dlm.engine.result import RowResult
from tests.doubles import random_llada

MODEL = random_llada()
PROMPTS = [[[1, 2, 3], [4], [5, 6, 7, 8]], [[9, 8], [7, 6, 5, 4, 3], [2], [11, 12]]]
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "wino": (samplers.wino(blocks=samplers.Fixed(6)), None, None),
    "credit": (samplers.credit(blocks=samplers.Fixed(4)), cache.dual(), None),
    "slowfast": (samplers.slowfast(blocks=samplers.Fixed(8)), None, None),
    "prophet": (samplers.prophet(blocks=samplers.Fixed(4)), None, None),
    "lopa": (samplers.lopa(0.5, blocks=samplers.Fixed(4)), cache.dkv_decode(), None),
    "sliding": (samplers.threshold(0.3, blocks=samplers.SlidingBlocks(3)), None, None),
    "drafts": (samplers.topk(blocks=samplers.Fixed(6)), cache.dual(), dlm.drafting.FreeDave(3)),
    "temperature": (samplers.topk(blocks=samplers.Fixed(6), temperature=0.8), None, dlm.drafting.FreeDave("auto")),
}


def decoder(kind: str) -> Decoder:
    sampler, policy, drafter = KINDS[kind]
    return Decoder(MODEL.backbone, MODEL.description, sampler, policy, drafter)


def started(of: Decoder, prompts: list[list[int]], new: int) -> Iterator[Any]:
    jobs = keyed([prompt_job(MODEL, i, prompt, new, {}) for i, prompt in enumerate(prompts)], seed=3)
    return of.run(jobs, 2, torch.device("cpu"))


def rows(events: Any) -> dict[int, tuple[list[int], list[int], int, int]]:
    """What came out of a run: tokens, commit steps, forwards and positions fed, by row."""
    done = [event for event in events if isinstance(event, RowResult)]
    return {r.index: (r.tokens, r.commit_step, r.counts.forwards, r.counts.token_forwards) for r in done}


@pytest.mark.parametrize("kind", KINDS)
def test_interleaved_runs_give_what_each_gives_alone(kind: str) -> None:
    alone = [rows(started(decoder(kind), prompts, new)) for prompts, new in zip(PROMPTS, (12, 18), strict=True)]
    one = decoder(kind)
    pair = [started(one, prompts, new) for prompts, new in zip(PROMPTS, (12, 18), strict=True)]
    events = list(zip_longest(*pair))
    together = [rows(event for event in column if event is not None) for column in zip(*events, strict=True)]
    if kind == "temperature":  # how far it drafts depends on the time; what is decoded does not
        alone, together = ([{i: r[:1] for i, r in run.items()} for run in runs] for runs in (alone, together))
    assert together == alone


@pytest.mark.parametrize("kind", ["wino", "credit", "lopa", "drafts"])
def test_runs_in_two_threads_give_what_each_gives_alone(kind: str) -> None:
    one = decoder(kind)
    alone = [rows(started(one, prompts, 16)) for prompts in PROMPTS]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda prompts: rows(started(one, prompts, 16)), PROMPTS))
    assert together == alone


def test_a_decoder_is_settings_and_nothing_else() -> None:
    one = decoder("wino")
    before = dict(vars(one))
    rows(started(one, PROMPTS[0], 8))
    assert vars(one) == before
    with pytest.raises(AttributeError):
        one.sampler = None  # type: ignore[misc, assignment]


def test_a_run_can_be_ended_early() -> None:
    run = started(decoder("wino"), PROMPTS[0], 8)
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert list(run) == []
