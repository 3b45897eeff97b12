"""Traces: they rebuild the canvas, survive the disk, and never change a number."""

from __future__ import annotations

from pathlib import Path

import dlm
import samplers
from tests.doubles import random_llada, table_model

MODEL = random_llada()


def test_replay_ends_at_the_answer_and_recording_changes_nothing(tmp_path: Path) -> None:
    prompts = [[1, 2, 3], [4, 5]]
    options = {"sampler": samplers.threshold(0.3, temperature=0.7), "max_new_tokens": 9}
    plain = dlm.generate(MODEL, prompts, **options)
    traced = dlm.generate(MODEL, prompts, record=("commits", "confidence"), **options)
    traces = [answer.trace for answer in traced]
    for a, b, prompt, trace in zip(plain, traced, prompts, traces, strict=True):
        assert (a.tokens, a.commit_step, a.trace) == (b.tokens, b.commit_step, None)
        frames = list(trace.replay())
        assert frames[0] == prompt + [MODEL.description.mask_id] * 9
        assert frames[-1] == prompt + b.tokens
        assert len(frames) == b.counts.forwards + 1
        for step in trace.steps:
            assert set(step.positions) <= set(step.confidence)
    dlm.save_traces(tmp_path / "run.jsonl", traces)
    assert dlm.load_traces(tmp_path / "run.jsonl") == traces
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"]


def test_filler_of_a_stop_rule_is_replayed() -> None:
    model = table_model([[0.05, 0.95], [0.9, 0.1], [0.5, 0.5], [0.5, 0.5]])
    sampler = samplers.topk(stop_at_end=True, blocks=samplers.Fixed(2))
    (answer,) = dlm.generate(model, [[1]], sampler=sampler, max_new_tokens=4, record="commits")
    assert list(answer.trace.replay())[-1] == [1, *answer.tokens] == [1, 1, 0, 0, 0]
    assert answer.as_dict()["trace"]["steps"][-1]["filled"] == 0
