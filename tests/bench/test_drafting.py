"""``dlm bench drafting``, end to end on small models: what is reported, never how long it took."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm import tasks
from dlm.bench.differences import differing, flips_table
from dlm.bench.drafting import contenders_of, question_jobs, verdicts
from dlm.bench.engine import Cell, Contender, Decode, Measured, random_jobs, tried
from dlm.bench.limits import Limits, forward_cost
from dlm.bench.memory import held
from dlm.bench.saturation import measure_saturation
from dlm.bench.shapes import build, surer
from dlm.cli import main
from dlm.errors import SettingsError
from dlm.models import LanguageModel
from dlm.speculation import FreeDave
from scripts import bench_gpu

LIMITS = Limits(1e11, 2e10)
CPU = torch.device("cpu")
SMALL = (
    "bench.models=[tiny]", "bench.tasks=[waiting_line/copy]", "bench.questions=1", "bench.rounds=1",
    "bench.versions=[]", "bench.flip_dtypes=[]", "bench.layouts=[batch]",
    "bench.draft_lengths=[4]", "bench.dtype=float64",
)  # fmt: skip


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do is measured by other tests."""
    monkeypatch.setattr("dlm.bench.engine.measure", lambda device, dtype: LIMITS)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    """What the bench prints, and its last line read as JSON."""
    assert main(["bench", "drafting", *SMALL, *arguments]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def contenders(layouts: list[str], lengths: list[int | str], policy: Any = None, block: int = 8) -> list[Contender]:
    """One position per step."""
    return contenders_of(layouts, lengths, samplers.topk(blocks=samplers.Fixed(block)), policy)


@pytest.fixture(scope="module")
def mid() -> LanguageModel:
    return surer(build("mid", CPU, torch.float32))


@pytest.mark.slow
def test_drafts_beside_the_undrafted_run(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(capsys, "samplers=topk", "bench.layouts=[batch,tree]", "bench.draft_lengths=[2,4]")
    names = ["none", "again", "batch 2", "batch 4", "tree 2", "tree 4"]
    ways = [("topk", "none"), ("topk", "dual")]
    assert [(f["sampler"], f["cache"], f["drafts"]) for f in result["figures"]] == [
        (*w, n) for w in ways for n in names
    ]
    for sampler, policy in ways:
        figures = {f["drafts"]: f for f in result["figures"] if (f["sampler"], f["cache"]) == (sampler, policy)}
        plain = figures["none"]
        assert (plain["ratio"], plain["ratio_least"], plain["saved"], plain["accepted"]) == (1.0, 1.0, 0.0, 0.0)
        assert plain["accepted_share"] is None
        same = ("forwards", "token_forwards", "limit", "accepted", "answers_differ")
        assert [figures["again"][key] for key in same] == [plain[key] for key in same]
        for f in figures.values():
            assert (f["answers"], f["answers_differ"], f["positions_differ"]) == (1, 0, 0)
            assert f["forwards"] * (1 + f["accepted"]) == pytest.approx(plain["forwards"])
            assert f["saved"] == pytest.approx(1 - f["forwards"] / plain["forwards"])
            assert f["token_ratio"] == pytest.approx(f["token_forwards"] / plain["token_forwards"])
            assert 0 < f["ratio_least"] <= f["ratio"] <= f["ratio_most"]
            assert 0 < f["outside"] < 1
        assert plain["forwards"] == 32
        assert figures["batch 2"]["saved"] > 0.3  # the packaged model keeps most guesses
        assert figures["batch 4"]["saved"] > figures["batch 2"]["saved"]
        assert 0.5 < figures["batch 2"]["accepted_share"] <= 1
    assert "waiting_line/copy: forwards, 1 answers" in out
    assert result["verdicts"] == ["tiny, timed runs: 0 of 8 drafted answers differ"]
    assert (result["refused"], result["forwards"], result["flips"]) == ({}, [], [])


def test_questions_are_decoded_as_generate_does() -> None:
    model = dlm.load("tiny")
    task = tasks.get("waiting_line/copy")
    (jobs,) = question_jobs(model, task, 3)
    chats = [task.instance(i).messages for i in range(3)]
    run = Decode.of(Cell(model, "some", 2), contenders(["batch"], [4], cache.dual(), 16)[1], jobs)
    while not run.done:
        run.advance(3)
    answers = dlm.generate(
        model, chats, sampler=samplers.topk(blocks=samplers.Fixed(16)), cache=cache.dual(),
        drafter=FreeDave(draft_length=4), max_new_tokens=task.canvas, batch_size=2,
    )  # fmt: skip
    assert [run.results[i].tokens for i in range(3)] == [answer.tokens for answer in answers]
    assert [run.results[i].counts.forwards for i in range(3)] == [answer.counts.forwards for answer in answers]
    accepted = sum(answer.counts.accepted_drafts for answer in answers)
    verified = sum(step.drafts for step in run.steps)
    assert 0 < accepted <= verified
    # What is verified are the positions that are fed beyond the rows themselves.
    assert verified * 16 < sum(answer.counts.token_forwards for answer in answers)
    one, two = question_jobs(model, task, 2, rounds=2)
    assert [job.tokens for job in one] == [job.tokens for job in jobs[:2]]
    assert two[0].tokens == jobs[2].tokens
    assert [job.index for job in two] == [0, 1]


def test_one_forward_of_several_versions(mid: LanguageModel) -> None:
    cell = Cell(mid, "mid", 1, LIMITS)
    for policy, fed in ((cache.none(), 20), (cache.dual(), 8)):
        figures = measure_saturation(cell, "some", contenders(["batch"], [2, 4, 16], policy), (12, 8), rounds=1)
        assert [(f.versions, f.fed) for f in figures] == [(n, n * fed) for n in (1, 2, 4)]  # a block has no 16 states
        one, *several = figures
        assert (one.forward_ratio, one.step_ratio, one.break_even, one.layout) == (1, 1, None, "")
        for f in several:
            assert (f.cache, f.layout) == ("some", "batch")
            assert f.break_even == pytest.approx(max(0, (f.step_ratio - 1) / (f.versions - 1)))
            assert f.step > f.forward > f.limit
    # 7, 6 and 5 positions are open after the first step: those are scored, once per version.
    cost = forward_cost(mid, 20, 20, 6)
    plain = measure_saturation(cell, "none", contenders([], []), (12, 8), rounds=1)
    assert plain[0].limit == pytest.approx(LIMITS.seconds(*cost))


@pytest.mark.slow
def test_peak_memory_is_that_of_all_versions(mid: LanguageModel) -> None:
    cell, jobs = Cell(mid, "mid", 1), random_jobs(mid, 1, 200, 16, seed=1)
    peaks, refused = tried(contenders(["batch"], [8], block=16), lambda c: held(cell, c, jobs).peak)
    assert refused == {}
    assert peaks["batch 8"] > 2 * peaks["none"]
    _, refused = tried(contenders(["batch"], [8], cache.entropy(), 16), lambda c: held(cell, c, jobs))
    assert list(refused) == ["batch 8"]
    with pytest.raises(SettingsError, match="longer than the canvas"):  # there is nothing to compare with
        tried(contenders(["batch"], [8], block=32), lambda c: held(cell, c, jobs))


def test_what_refuses_drafts_is_listed_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(
        capsys, "samplers=[klass,threshold:threshold=0.8,topk:tokens_per_step=nope]", "caches=[none]", "bench.rounds=2"
    )
    assert [f["drafts"] for f in result["figures"]] == ["none", "again", "none", "again", "batch 4"]
    assert {f["answers"] for f in result["figures"]} == {2}
    assert "threshold:0.8, none" in out
    assert "previous forward" in result["refused"]["klass + none + batch 4"]
    assert "topk:tokens_per_step=nope" in result["refused"]
    assert "refused: klass + none + batch 4: " in out


@pytest.mark.slow
def test_answers_that_differ_are_counted_per_number_format(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(
        capsys, "samplers=[topk]", "caches=[dual]", "bench.flip_dtypes=[bfloat16,float64]", "bench.flip_questions=2",
        "bench.versions=[1,2]", "bench.prompt=8", "bench.generation=16",
    )  # fmt: skip
    assert [(f["dtype"], f["answers"], f["positions"]) for f in result["flips"]] == [
        ("bfloat16", 2, 64),
        ("float64", 2, 64),
    ]
    exact = result["flips"][1]
    assert (exact["answers_differ"], exact["positions_differ"], exact["more_forwards"]) == (0, 0, 0)
    assert "float64: 0 of 2 drafted answers differ (0 of 64 positions); it must be none: held" in out
    assert [f["versions"] for f in result["forwards"]] == [1, 2]


def test_differing_answers(mid: LanguageModel) -> None:
    jobs = random_jobs(mid, 2, 6, 4, seed=1)
    run = Decode.of(Cell(mid, "mid", 2), contenders([], [], block=4)[0], jobs).advance()
    assert differing(run.results, run.results) == (0, 0)
    other = {i: replace(result, tokens=[-1, *result.tokens[1:3], -1]) for i, result in run.results.items()}
    assert differing(run.results, other) == (2, 4)
    assert differing(run.results, {**run.results, 1: other[1]}) == (1, 2)


def _figures(drafts: str, length: int | str | None, ratio: float, differ: int = 0) -> Measured:
    return Measured(
        model="tiny", batch=1, prompts="some task", sampler="topk", cache="dual", drafts=drafts, draft_length=length,
        answers=5, answers_differ=differ, ratio=ratio,
    )  # fmt: skip


def test_what_was_promised_is_told() -> None:
    figures = [_figures("none", None, 1.0), _figures("again", None, 0.98)]
    figures += [_figures("batch auto", "auto", 0.96), _figures("batch 8", 8, 0.3, differ=2)]
    lines = verdicts(figures, [], [])
    assert lines == [
        "draft_length=auto took at most 5% longer than no drafts in 1 of 1 lines (longest: 1.04 of the time; the"
        " undrafted run repeated: 1.02 to 1.02)",
        "tiny, timed runs: 2 of 10 drafted answers differ",
    ]
    lines = verdicts([*figures, _figures("batch auto", "auto", 0.8)], [], [])
    assert "in 1 of 2 lines (longest: 1.25" in lines[0]
    assert lines[1] == "  longer: tiny x1, some task, topk, dual, batch auto: 1.25 of the time"
    names = {"model": "tiny", "dtype": "float64", "sampler": "topk", "cache": "dual", "drafts": "batch 2"}
    flips = [
        Measured(**names, answers=4, answers_differ=n, positions=128, positions_differ=3 * n, more_forwards=1 - n)
        for n in (1, 0)
    ]
    assert verdicts([], flips, []) == [
        "float64: 1 of 8 drafted answers differ (3 of 256 positions); it must be none: BROKEN",
        "1 drafted answers took more forwards than the undrafted ones",
    ]
    assert "of 8, in each" in str(flips_table(flips).title)
    saturation_point = [
        Measured(model="mid", batch=1, cache="dual", layout=layout, versions=n, forward_ratio=x)
        for layout, n, x in (("", 1, 1.0), ("batch", 2, 1.05), ("batch", 4, 1.1), ("batch", 8, 1.4))
    ]
    (line,) = verdicts([], [], saturation_point)
    assert line == "mid x1, dual, batch: a forward of up to 4 version(s) takes at most 10% longer than one of 1"


def test_what_the_gpu_session_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def noted(settings: Any, *parts: Any) -> dict[str, Any]:
        asked.update(settings=settings, parts=parts)
        return {}

    monkeypatch.setattr(bench_gpu, "bench_drafting", noted)
    assert [name for name in bench_gpu.PARTS if name.startswith("drafting/")] == [
        "drafting/llada-8b/x1",
        "drafting/llada-8b/x4",
    ]
    bench_gpu.PARTS["drafting/llada-8b/x4"]()
    settings, (ways, caches, stepper) = asked["settings"], asked["parts"]
    assert (settings.models, settings.batches, settings.turn) == (("llada-8b",), (4,), None)
    assert (settings.device, settings.dtype, settings.layouts) == ("cuda", "bfloat16", ("batch", "tree"))
    assert settings.draft_lengths == (2, 4, 8, "auto")
    assert (list(ways), list(caches)) == (["topk", "threshold:threshold=0.9"], ["none", "dual"])
    assert stepper.blocks.longest(64) == 32


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samplers=[topk,nope]"], "unknown sampler 'nope'; known are all or adablock, .*wino"),
        (["caches=[]"], "caches names none: all, or some of adaptive"),
        (["samplers=[topk:4]"], "'4' in 'topk:4' is not key=value"),
        (["sampler=topk"], "takes several samplers: 'samplers="),
        (["cache=dual"], "takes several caches: 'caches="),
        (["bench.rounds=0"], "rounds must be a whole number of at least 1, got 0"),
        (["bench.turn=0"], "turn must be a whole number of at least 1, got 0"),
        (["bench.batches=[1,x]"], "bench.batches must be a list, each of it a whole number"),
        (["bench.versions=[0]"], "versions must be a whole number of at least 1, got 0"),
        (["bench.draft_lengths=[]"], "draft_lengths names none"),
        (["bench.draft_lengths=[0]"], "draft_length must be"),
        (["bench.layouts=[nope]"], "layout"),
        (["bench.models=[nope]"], "unknown bench shape 'nope'"),
        (["bench.tasks=[nope]"], "unknown task 'nope'"),
        (["bench.dtype=int8"], "int8"),
        (["blocks.length=64"], "blocks.length=64 is longer than the canvas of 32"),
        (["bench.size=1"], "unknown setting 'bench.size'"),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "drafting", *SMALL, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(SettingsError, match=message):
        raise SettingsError(line)


def test_help_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "drafting", "--help"]) == 0
    assert "dlm bench drafting bench.models=[tiny]" in capsys.readouterr().out
    assert main(["bench", "drafting", "--cfg", "caches=[dual]"]) == 0
    assert "caches: '[dual]'" in capsys.readouterr().out
    assert main(["bench", "--help"]) == 0
    assert "  drafting  what drafts save" in capsys.readouterr().out
