"""Rows that join a run between two of its steps give what they give alone; rows that leave it disturb nobody."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

import cache
import dlm
import samplers
from dlm.engine.admission import admit, dismiss
from dlm.engine.canvas import Job
from dlm.engine.loop import Decoder, StepEvent
from dlm.errors import SettingsError
from dlm.prompts import keyed, prompt_job, prompt_jobs
from dlm.speculation import FreeDave
from tests.cache.test_block_causal import block_causal
from tests.doubles import random_dream, random_llada
from tests.test_decoder import preset

SAMPLERS = ["threshold", "credit", "prophet", "klass", "eb", "remdm", "saber", "wino", "core", "verified", "d3llm"]
CACHES = [name for name in cache.PRESETS if name not in ("dkv_greedy", "block_causal")]
WAYS: dict[str, dict[str, Any]] = {
    **{name: {"sampler": preset(name, temperature=0.7)} for name in SAMPLERS},
    **{name: {"sampler": preset("threshold"), "cache": getattr(cache, name)()} for name in CACHES},
    "dkv_greedy": {"sampler": preset("random"), "cache": cache.dkv_greedy()},
    "drafts": {"sampler": preset("topk"), "drafter": FreeDave(4)},
    "drafts, cached": {"sampler": preset("topk"), "drafter": FreeDave("auto"), "cache": cache.dual()},
    "growing": {"sampler": samplers.threshold(0.5, blocks=samplers.DensityBlocks(initial=4, length=4))},
}


def jobs_of(model: Any, rng: random.Random, count: int = 6) -> list[Any]:
    prompts = [[rng.randrange(1, 9) for _ in range(rng.randrange(1, 9))] for _ in range(count)]
    jobs = [prompt_job(model, i, p, rng.choice([8, 12, 20]), {}) for i, p in enumerate(prompts)]
    return [keyed([job], 0)[0] for job in jobs]


def figures(row: Any) -> tuple[Any, ...]:
    return row.tokens, row.commit_step, row.stop, row.counts.forwards, row.counts.token_forwards


@pytest.mark.parametrize("name", WAYS)
def test_rows_that_join_give_what_they_give_alone(name: str) -> None:
    model, rng, way = random_llada(), random.Random(name), WAYS[name]
    held_alike(model, rng, Decoder(model.backbone, model.description, **way))


@pytest.mark.parametrize("model", [random_dream(), block_causal("llada"), block_causal("dream")])
def test_of_other_families_too(model: Any) -> None:
    sampler = samplers.threshold(0.3)
    held_alike(model, random.Random(0), Decoder(model.backbone, model.description, sampler))


@pytest.mark.parametrize("name", ["threshold", "credit", "klass", "saber", "wino", "remdm", "core"])
def test_rows_of_other_temperatures_too(name: str) -> None:
    model, rng, heats = random_llada(), random.Random(name), [0.0, 0.4, 1.0, 0.0, 3.0, 0.4]
    drawing, *alone = (
        Decoder(model.backbone, model.description, preset(name, temperature=heat)) for heat in (1.0, *heats)
    )
    jobs = [replace(job, temperature=heat) for job, heat in zip(jobs_of(model, rng), heats, strict=True)]
    held_alike(model, rng, drawing, jobs, alone)


@pytest.mark.parametrize("changed", [{}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0, "top_k": 2}])
def test_temperatures_of_rows_want_a_sampler_that_can(changed: dict[str, Any]) -> None:
    model = random_llada()
    decoder = Decoder(model.backbone, model.description, preset("threshold", **changed))
    jobs = [replace(job, temperature=0.5) for job in jobs_of(model, random.Random(0), 2)]
    with pytest.raises(SettingsError, match="draws from all of softmax"):
        decoder.run(jobs, 2, model.device)


def held_alike(
    model: Any, rng: random.Random, decoder: Decoder, jobs: Sequence[Job] = (), single: Sequence[Decoder] = ()
) -> None:
    jobs = list(jobs or jobs_of(model, rng))
    alone = {
        job.index: figures(row)
        for job, by in zip(jobs, single or [decoder] * len(jobs), strict=True)
        for row in by.run([replace(job, temperature=None)], 1, model.device)
        if taken(row)
    }
    found: dict[int, Any] = {}
    waiting, joined = list(jobs), 0
    while waiting:
        run = decoder.run([waiting.pop(0)], 3, model.device, room=64)
        for event in run:
            if not isinstance(event, StepEvent):
                found[event.index] = figures(event)
            elif waiting and rng.random() < 0.7:
                admit(run, waiting.pop(0))
                joined += 1
    assert joined
    assert found == alone


def taken(event: Any) -> bool:
    return not isinstance(event, StepEvent)


def test_rows_that_leave_disturb_nobody() -> None:
    model = random_llada()
    decoder, jobs = (
        Decoder(model.backbone, model.description, preset("threshold"), cache.dual()),
        jobs_of(model, random.Random(1)),
    )
    alone = {job.index: figures(row) for job in jobs for row in decoder.run([job], 1, model.device) if taken(row)}
    run, found, steps = decoder.run(jobs, 3, model.device, room=64), {}, 0
    for event in run:
        if isinstance(event, StepEvent):
            steps += 1
            live = [row.job.index for row in event.rows]
            if steps == 2:
                dismiss(run, live[1])
                dismiss(run, next(iter(run.batch.waiting)).index)
        else:
            found[event.index] = figures(event)
    assert len(found) == len(jobs) - 2
    assert all(alone[index] == row for index, row in found.items())


def test_a_stop_string_comes_in_with_its_row() -> None:
    model = dlm.load("tiny")
    sampler = samplers.topk(blocks=samplers.Fixed(8))
    decoder = Decoder(model.backbone, model.description, sampler, cache.dual())
    (first,), (second,) = (prompt_jobs(model, ["47+85="], 32, None, stop) for stop in (None, "=12"))
    run, found = decoder.run([first], 2, model.device, room=64), {}
    next(run)
    admit(run, replace(second, index=1))
    for event in run:
        if not isinstance(event, StepEvent):
            found[event.index] = event
    assert model.decode(found[1].tokens[: found[1].counts.tokens]) == "7+5"
    assert found[1].stop == "stop_string"
    assert found[1].counts.forwards < found[0].counts.forwards == 32


def test_a_row_for_which_there_is_no_memory_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llada()
    decoder = Decoder(model.backbone, model.description, preset("threshold"))
    run = decoder.run(jobs_of(model, random.Random(3), 1), 2, model.device, room=64)
    next(run)
    with monkeypatch.context() as patch:
        patch.setattr(type(run.batch), "join", lambda *_: [].pop())
        with pytest.raises(IndexError):
            admit(run, prompt_job(model, 7, [1], 8, {}))
    assert not run.batch.waiting
    assert [row.index for row in run if taken(row)] == [0]  # type: ignore[union-attr]


def test_what_does_not_fit_is_refused() -> None:
    model = random_llada()
    sampler = samplers.threshold(temperature=1.0, blocks=samplers.Fixed(8))
    decoder = Decoder(model.backbone, model.description, sampler)
    run = decoder.run(jobs_of(model, random.Random(2), 1), 2, model.device, room=24)
    next(run)
    with pytest.raises(SettingsError, match="33 positions and the run room for 24"):
        admit(run, prompt_job(model, 7, [1], 32, {}))
    with pytest.raises(SettingsError, match="longer than the canvas of 4"):
        admit(run, prompt_job(model, 7, [1], 4, {}))
    with pytest.raises(SettingsError, match="all a temperature of their own, or none"):
        admit(run, replace(prompt_job(model, 7, [1], 16, {}), temperature=0.5))
    for _ in run:
        pass
    with pytest.raises(SettingsError, match="the run is over"):
        admit(run, prompt_job(model, 7, [1], 16, {}))
    assert dlm.generate(model, [[1]], sampler="threshold", max_new_tokens=8)
