"""Traces: they rebuild the canvas, survive the disk, agree with the model asked by hand, and never change a number."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.errors import SettingsError
from dlm.speculation import FreeDave
from dlm.trace import RECORDABLE, CacheEvent, Recorder, Trace, TraceStep, TraceWriter, count_traces, read_traces
from tests.doubles import random_dream, random_llada, table_model
from tests.naive_decoder import naive_logits

MODEL = random_llada()
MODELS = {"llada": MODEL, "dream": random_dream()}
MASK = MODEL.description.mask_id
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10]]
BLOCKS = samplers.Fixed(4)
DATA = Path(__file__).parent / "data" / "traces"


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


COMBINATIONS: dict[str, tuple[Any, Any, Any]] = {
    "threshold": (samplers.threshold(0.3, blocks=BLOCKS), None, None),
    "drawn": (samplers.topk(tokens_per_step=2, blocks=BLOCKS, temperature=0.8), None, None),
    "guided": (samplers.topk(blocks=BLOCKS, guidance=1.0), None, None),
    "wino": (samplers.wino(blocks=BLOCKS), None, None),
    "remdm": (samplers.remdm(blocks=BLOCKS), None, None),
    "klass": (samplers.klass(blocks=BLOCKS), None, None),
    "prophet": (samplers.prophet(blocks=BLOCKS), None, None),
    "lopa": (samplers.lopa(0.3, blocks=BLOCKS), None, None),
    "verified": (samplers.verified(1.0, blocks=BLOCKS), None, None),
    "slowfast": (samplers.slowfast(blocks=BLOCKS), None, None),
    "ends": (samplers.topk(tokens_per_step=2, blocks=BLOCKS, stop_at_end="decoded"), None, None),
    "dream": (samplers.dream_entropy(steps=6), None, None),
    "dual": (samplers.threshold(0.3, blocks=BLOCKS), cache.dual(), None),
    "delayed": (samplers.topk(blocks=BLOCKS), cache.dkv_decode(interval=3), None),
    "features": (samplers.topk(blocks=BLOCKS), cache.dllm(), None),
    "drafts": (samplers.topk(blocks=BLOCKS), None, FreeDave(3)),
    "eager drafts": (samplers.topk(blocks=BLOCKS), cache.dkv_decode(), FreeDave(4, acceptance="eager", sources=2)),
    "drafts over a cache": (samplers.threshold(0.6, blocks=BLOCKS), cache.dual(), FreeDave(4, layout="tree")),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_recording_everything_changes_nothing_and_agrees_with_the_counters(name: str) -> None:
    sampler, policy, drafter = COMBINATIONS[name]
    options: dict[str, Any] = {"sampler": sampler, "cache": policy, "drafter": drafter}
    options |= {"max_new_tokens": 12, "batch_size": 2, "seed": 3}
    plain = dlm.generate(MODEL, PROMPTS, **options)
    traced = dlm.generate(MODEL, PROMPTS, record=RECORDABLE, **options)
    for a, b, prompt in zip(plain, traced, PROMPTS, strict=True):
        assert (a.tokens, a.commit_step, a.stop) == (b.tokens, b.commit_step, b.stop)
        assert str(a.confidence) == str(b.confidence)  # NaN equals itself here
        times = {k: 0 for k in asdict(a.counts) if k.startswith("seconds") or k == "tokens_per_second"}
        assert {**asdict(a.counts), **times} == {**asdict(b.counts), **times}
        trace = b.trace
        assert trace is not None
        steps = trace.steps
        assert list(trace.replay())[-1] == [*prompt, *b.tokens]
        assert sum(s.cache.fed for s in steps) == b.counts.token_forwards
        assert sum(s.accepted for s in steps) == b.counts.accepted_drafts
        shown = [sum(s.accepted == n for s in steps if s.drafts) for n in range(len(b.counts.acceptance))]
        assert tuple(shown) == b.counts.acceptance
        assert len(steps) * (2 if name == "guided" else 1) == b.counts.forwards
        last = {p: (s.step, round(prob, 5)) for s in steps for p, prob in zip(s.positions, s.probs, strict=True)}
        for place, (step, prob) in enumerate(zip(b.commit_step, b.confidence, strict=True)):
            if step >= 0:
                assert last[len(prompt) + place] == (step, pytest.approx(prob, abs=1e-5))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_candidates_are_those_of_the_model_asked_by_hand(family: str, temperature: float) -> None:
    model = MODELS[family]
    sampler = samplers.topk(
        tokens_per_step=2, blocks=BLOCKS, temperature=temperature, top_p=0.8 if temperature else None
    )
    (answer,) = dlm.generate(
        model, [PROMPTS[0]], sampler=sampler, max_new_tokens=8, record=("all_candidates", "logits")
    )  # fmt: skip
    trace = answer.trace
    assert trace is not None
    for step, canvas in zip(trace.steps, trace.replay(), strict=False):
        with torch.no_grad():
            logits = naive_logits(model, canvas)
        probs = logits.softmax(-1)
        logits[:, MASK] = -torch.inf
        open_ = [p for p in range(*step.block) if canvas[p] == MASK]
        assert sorted(step.candidates) == sorted(step.logits) == open_
        for position in open_:
            best = logits[position].topk(5)
            pairs = step.candidates[position]
            assert [token for token, _ in pairs] == best.indices.tolist()
            assert [prob for _, prob in pairs] == pytest.approx(probs[position, best.indices].tolist(), rel=1e-4)
            assert step.logits[position] == pytest.approx(best.values.tolist(), rel=1e-4, abs=1e-4)
    commits = dlm.generate(model, [PROMPTS[0]], sampler=sampler, max_new_tokens=8, record="candidates")[0].trace
    assert commits is not None
    for step, whole in zip(commits.steps, trace.steps, strict=True):
        assert step.candidates == {p: whole.candidates[p] for p in step.positions}
        assert (step.logits, step.confidence, step.cache) == (None, None, None)


def test_candidates_with_drafts_are_those_without() -> None:
    """Every commit is shown with the answer to the state it was made in, which a draft was."""
    options: dict[str, Any] = {"sampler": samplers.topk(blocks=BLOCKS), "max_new_tokens": 12, "record": "candidates"}
    kept = []
    for drafter in (None, FreeDave(4)):
        (answer,) = dlm.generate(MODEL, [PROMPTS[1]], drafter=drafter, **options)
        kept.append([(p, s.candidates[p]) for s in answer.trace.steps for p in s.positions])  # type: ignore[union-attr]
    for (mine, best), (theirs, others) in zip(*kept, strict=True):
        assert (mine, [t for t, _ in best]) == (theirs, [t for t, _ in others])
        assert [p for _, p in best] == pytest.approx([p for _, p in others], rel=1e-4)


def test_what_is_banned_is_no_candidate() -> None:
    model = table_model([[0.6, 0.3, 0.1]])  # the end token is 0
    sampler = samplers.topk(transforms=(samplers.BanEnd(),))
    (answer,) = dlm.generate(model, [[1]], sampler=sampler, max_new_tokens=1, record=("candidates", "logits"))
    (step,) = answer.trace.steps  # type: ignore[union-attr]
    assert [token for token, _ in step.candidates[1]] == [1, 2]
    assert len(step.logits[1]) == 2


def test_cache_events_say_when_everything_was_refreshed() -> None:
    (answer,) = dlm.generate(
        MODEL, [PROMPTS[0]], sampler=samplers.topk(blocks=BLOCKS), cache=cache.dual(), max_new_tokens=12, record="cache"
    )
    events = [step.cache for step in answer.trace.steps]  # type: ignore[union-attr]
    assert [e.refresh for e in events if e is not None] == [i % 4 == 0 for i in range(12)]
    for index, event in enumerate(events):
        start = 3 + 4 * (index // 4)
        assert event == CacheEvent(15, True) if index % 4 == 0 else event == CacheEvent(4, False, [(start, start + 4)])


def test_files_of_the_first_version_still_load() -> None:
    (trace,) = dlm.load_traces(DATA / "version1.jsonl")
    assert list(trace.replay()) == [[5, 39, 39, 39], [5, 39, 7, 39], [5, 4, 39, 39], [5, 4, 3, 38]]
    first = trace.steps[0]
    assert (first.confidence, first.candidates, first.cache, first.drafts) == ({1: 0.25, 2: 0.8125}, None, None, 0)
    assert (trace.about, trace.pieces) == ({}, {})


def everything() -> Trace:
    step = TraceStep(
        step=0, block=(1, 3), positions=[2, 1], tokens=[7, 8], probs=[0.5, 1e-07], remasked=[1], filled=0, cut=3,
        confidence={1: 0.25}, candidates={2: [(7, 0.5), (3, 0.25)]}, logits={2: [1.5, -2.0]},
        cache=CacheEvent(4, False, [(0, 1), (2, 4)], {"share": 3}), drafts=3, accepted=2,
    )  # fmt: skip
    return Trace([5, 9, 9, 9], 1, 9, [step], {"seed": 1, "prompt": "é\n\u2028"}, {7: "</script><b>", 8: "é"})


def test_everything_survives_the_disk(tmp_path: Path) -> None:
    traces = [everything(), Trace([5, 9], 1, 9)]
    dlm.save_traces(tmp_path / "a.jsonl", traces)
    assert dlm.load_traces(tmp_path / "a.jsonl") == traces
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 2


def test_a_writer_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "traces.jsonl"
    with TraceWriter(path) as writer:
        writer.append(Trace([5, 9], 1, 9), {5: "x"}, instance_id="a", seed=0)
        writer.append(Trace([5, 9], 1, 9), instance_id="b", seed=0)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 3].rstrip(b"\n"))
    assert len(dlm.load_traces(path)) == 2
    with TraceWriter(path) as writer:
        assert path.read_bytes() == whole
        writer.append(Trace([4, 9], 1, 9), instance_id="b", seed=0, score=1.0)  # decoded again: the first line counts
        writer.append(Trace([4, 9], 1, 9), instance_id="b", seed=1)
    found = dlm.load_traces(path)
    assert [(t.about["instance_id"], t.about["seed"], t.canvas[0]) for t in found] == [
        ("a", 0, 5),
        ("b", 0, 5),
        ("b", 1, 4),
    ]
    assert found[0].pieces == {5: "x"}
    path.with_name("traces-rank1.jsonl").write_bytes(whole.replace(b'"a"', b'"c"'))
    assert [t.about["instance_id"] for t in read_traces(path.parent)] == ["c", "b", "a", "b"]
    assert count_traces(path.parent) == 6


@pytest.mark.parametrize("torn", [b"", b'{"a": 1', b"x" * 200_000])
def test_a_writer_cuts_only_what_is_unfinished(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"one\ntwo\n" + torn)
    TraceWriter(path).close()
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2 is no trace"),
        ("[1]", "line 2 is no trace"),
        ('{"canvas": [1], "start": 0}', "line 2 is no trace"),
        (json.dumps({"version": 99, "steps": []}), "line 2: a trace of version 99"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    dlm.save_traces(path, [everything()])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        dlm.load_traces(path)


def test_no_file_is_said_plainly(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(SettingsError, match="holds no traces"):
            dlm.load_traces(path)


def test_unknown_recordings_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown steps; known are order, "):
        Recorder(("order", "steps"))


def test_the_order_of_a_row_of_64_tokens_takes_less_than_ten_kilobytes(tmp_path: Path) -> None:
    model = dlm.load("tiny")
    options: dict[str, Any] = {"sampler": samplers.topk(), "max_new_tokens": 64}
    sizes = {}
    for record in ("order", ("order", "confidence", "candidates", "cache")):
        (answer,) = dlm.generate(model, ['Reverse the list: ["Anna", "Bob", "Cleo"]'], record=record, **options)
        dlm.save_traces(tmp_path / "t.jsonl", [answer.trace])
        sizes[record] = (tmp_path / "t.jsonl").stat().st_size
    order, whole = sizes.values()
    assert order < 10_000
    assert whole < 40_000
