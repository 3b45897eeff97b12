"""``dlm bench caches``, end to end on the packaged model: what is reported, never how long it took."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cache
import samplers
from dlm.bench.caches import CachesBenchSettings, bench_caches
from dlm.bench.engine import Cell, Contender, Decode, random_jobs
from dlm.bench.limits import Limits
from dlm.bench.memory import Watching, reachable_bytes
from dlm.bench.shapes import build, surer
from dlm.bench.token_forwards import Paper, on_paper
from dlm.cli import main
from dlm.errors import SettingsError
from scripts import bench_gpu
from tests.doubles import random_dream

SMALL = ("bench.shapes=[tiny]", "bench.prompt=24", "bench.generation=16", "blocks=fixed", "blocks.length=8")
# Width 128, 6 layers, MLP of 384, vocabulary 478, float32.
BODY_BYTES = 4 * (6 * (4 * 128 * 128 + 3 * 128 * 384) + 478 * 128)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do is measured by other tests."""
    monkeypatch.setattr("dlm.bench.engine.measure", lambda device, dtype: Limits(1e11, 2e10))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    """What the bench prints, and its last line read as JSON."""
    assert main(["bench", "caches", *SMALL, *arguments]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_every_cache_beside_none(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(capsys, "bench.drift=0", "bench.threads=1")
    figures = {f["cache"]: f for f in result["figures"]}
    with_random = {"none, random", "dkv_greedy, random"}
    refused = {"block_causal": "this model's attention is full"}
    assert set(figures) == set(cache.PRESETS) - {*refused, "dkv_greedy"} | with_random
    assert set(result["refused"]) == set(refused)
    for name, reason in refused.items():
        assert f"refused: {name}: {result['refused'][name]}" in out
        assert reason in result["refused"][name]
    for name, figure in figures.items():
        assert figure["forwards"] == 16
        assert figure["sampler"] == ("random" if name in with_random else "topk")
        assert sum(figure[f"share_{part}"] for part in ("refresh", "forward", "sampler")) == pytest.approx(1)
        assert figure["limit"] >= max(figure["arithmetic"], figure["weights"])
        assert figure["weights"] == pytest.approx(16 * BODY_BYTES / 2e10)
        assert figure["ratio_least"] <= figure["ratio"] <= figure["ratio_most"]
        assert (figure["kl"], figure["agreement"], figure["peak"]) == (None, None, None)
        assert f" {name} " in out
    assert figures["none"]["ratio"] == figures["none, random"]["ratio"] == 1.0
    assert (figures["none"]["token_forwards"], figures["none"]["refreshes"]) == (16 * 40, 0)
    assert figures["dual"]["ratio_on_paper"] == 640 / (2 * (40 + 7 * 8))
    assert figures["dual"]["refreshes"] == 2
    # Positions fed are those of the closed forms; dLLM-Cache's leaves out that the first layer is always recomputed.
    counted = {name: (f["token_forwards"], f["on_paper"]) for name, f in figures.items() if f["on_paper"] is not None}
    fed, paper = counted.pop("dllm")
    assert paper < fed
    assert {"none", "prefix", "dual", "vicinity", "dkv_decode", "dkv_greedy, random"} < set(counted)
    assert all(fed == paper for fed, paper in counted.values()), counted


def test_closed_forms() -> None:
    # Positions per step at prompt 800, generation 256, blocks of 32.
    paper = Paper(800, 256, 32)
    per_step = {name: on_paper(name, getattr(cache, name)(), paper) for name in ("prefix", "dual", "dkv_prefill")}
    assert {name: round((n or 0) / 256, 1) for name, n in per_step.items()} == {
        "prefix": 172.5, "dual": 64.0, "dkv_prefill": 259.1
    }  # fmt: skip
    assert round((on_paper("dkv_decode", cache.dkv_decode(), paper) or 0) / 256) == 245
    assert round((on_paper("dllm", cache.dllm(), paper) or 0) / 256) == 123
    assert on_paper("dual", cache.dual(every=4), paper) is None
    assert on_paper("dkv_decode", cache.dkv_decode(cadence="reference"), paper) is None
    assert on_paper("window", cache.window(), paper) is None


def test_buffers_are_what_the_formula_says(capsys: pytest.CaptureFixture[str]) -> None:
    _, result = told(capsys, "caches=[dual,dllm]", "bench.drift=0", "bench.batches=[1,3]")
    for figure in result["figures"]:
        # 6 layers, 4 heads of 32, 40 positions and the scratch column, float32.
        assert figure["formula"] == 2 * 6 * 4 * 32 * 41 * 4 * figure["batch"]
        assert figure["keys_values"] == (0 if figure["cache"] == "none" else figure["formula"])
        # What a layer added to the stream, half as wide as keys and values together.
        assert (figure["other"] > figure["formula"] / 2) == (figure["cache"] == "dllm")


def test_settings_of_a_cache_and_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(
        capsys, "caches=[dual:every=2,dkv_decode:interval=4,cadence=reference]", "bench.rounds=2", "bench.turn=5",
        "bench.drift=0", "sampler.tokens_per_step=2",
    )  # fmt: skip
    figures = {f["cache"]: f for f in result["figures"]}
    assert list(figures) == ["none", "dual:every=2", "dkv_decode:interval=4,cadence=reference"]
    assert figures["dual:every=2"]["forwards"] == 8
    assert figures["dual:every=2"]["refreshes"] == 4
    assert figures["dual:every=2"]["on_paper"] is None
    assert "a 8-token cached step (dual:every=2) takes " in out
    assert "times the weight-reading limit" in out


@pytest.mark.slow
def test_drift_is_that_of_the_drift_report(capsys: pytest.CaptureFixture[str]) -> None:
    # The packaged model is sure of nothing but the end after a prompt of random tokens: no drift would be seen.
    _, result = told(
        capsys, "caches=[dual,vicinity:warmup=99]", "bench.shapes=[mid]", "bench.prompt=16", "bench.generation=8",
        "bench.drift=8",
    )  # fmt: skip
    kl = {f["cache"]: (f["kl"], f["agreement"]) for f in result["figures"]}
    assert kl["none"] == (None, None)
    assert kl["vicinity:warmup=99"] == (pytest.approx(0, abs=1e-6), 1.0)  # recomputes everything
    assert kl["dual"][0] > 1e-4


def test_a_cache_no_sampler_suits_is_listed_with_its_reason() -> None:
    settings = CachesBenchSettings(shapes=("tiny",), prompt=8, generation=8, drift=0)
    caches = {"dkv_greedy": cache.dkv_greedy(), "broken": "its settings are wrong"}
    result = bench_caches(settings, caches, samplers.topk(), "no random sampler today")
    assert [f["cache"] for f in result["figures"]] == ["none"]
    assert "no random sampler today" in result["refused"]["dkv_greedy"]
    assert result["refused"]["broken"] == "its settings are wrong"
    result = bench_caches(settings, {"dkv_greedy": cache.dkv_greedy()}, samplers.random(), "unused")
    assert [f["cache"] for f in result["figures"]] == ["none", "dkv_greedy"]  # the sampler itself suits


@pytest.mark.slow
def test_what_the_gpu_session_runs() -> None:
    result = bench_gpu.every_cache("tiny", 12, 4, (1, 2), "cpu", "float32")
    assert {f["batch"] for f in result["figures"]} == {1, 2}
    assert set(result["refused"]) == {"block_causal"}
    assert result["settings"]["turn"] is None
    assert all(f["kl"] is not None for f in result["figures"] if not f["cache"].startswith("none"))
    assert [name for name in bench_gpu.PARTS if name.startswith("caches/")] == [
        f"caches/{shape}/{lengths}" for shape in ("llada-8b", "dream-7b") for lengths in ("800+256", "64+512")
    ]
    assert bench_gpu.main(["nope"]) == 2


def test_random_models_are_about_as_sure_as_trained_ones() -> None:
    model = surer(build("body", CPU, torch.float32))
    assert (model.backbone.arch.width, model.backbone.arch.layers) == (512, 8)  # type: ignore[attr-defined]
    with torch.inference_mode():
        logits = model.backbone.head(model.backbone.hidden(torch.arange(32)[None])).float()
    assert 8 < logits.std() < 16


def test_turns_of_any_length_give_the_same_decode() -> None:
    cell = Cell(random_dream(dtype=torch.float32), "some", 2)  # type: ignore[arg-type]
    jobs = random_jobs(cell.model, 2, 7, 12, seed=3)
    contender = Contender("dual", samplers.topk(blocks=samplers.Fixed(4)), cache.dual())
    whole, parts = (Decode.of(cell, contender, jobs) for _ in range(2))
    whole.advance()
    turns = 0
    while not parts.done:
        parts.advance(5)
        turns += 1
    assert [s.fed for s in whole.steps] == [s.fed for s in parts.steps] == 3 * [2 * 19, *[2 * 5] * 3]
    assert turns == 3
    assert all((s.refresh > 0) == (s.fed == 38) for s in whole.steps)
    assert sum(step.wall for step in whole.steps) <= whole.seconds
    assert len(Decode.of(cell, contender, jobs, most=7).advance().steps) == 7


def test_watching_changes_nothing() -> None:
    watching = Watching(cache.entropy())
    assert (watching.needs, watching.asks_ahead) == (frozenset({"entropy"}), False)
    assert Watching(cache.dkv_greedy()).asks_ahead
    with pytest.raises(SettingsError, match="know before a forward"):
        Watching(cache.dkv_greedy()).check(samplers.topk(), None)


def test_reachable_bytes_counts_every_storage_once() -> None:
    buffer = torch.zeros(10, dtype=torch.float64)
    holder = SimpleNamespace(kept=[{"a": buffer[:3]}, (buffer, torch.zeros(2, dtype=torch.float32))])
    assert reachable_bytes(holder) == 80 + 8
    assert reachable_bytes(None) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caches=[dual,nope]"], r"unknown cache 'nope' .did you mean none..; known are all or adaptive, .*window"),
        (["caches=[]"], "caches names none: all, or some of adaptive"),
        (["caches=[dual:4]"], "'4' in 'dual:4' is not key=value"),
        (["cache=dual"], "takes several caches: 'caches="),
        (["caches=dual", "cache.every=4"], "takes several caches: 'caches="),
        (["caches=dual", "bench.rounds=0"], "rounds must be a whole number of at least 1, got 0"),
        (["caches=dual", "bench.turn=0"], "turn must be a whole number of at least 1, got 0"),
        (["caches=dual", "bench.drift=-1"], "drift must be a whole number of at least 0, got -1"),
        (["caches=dual", "bench.batches=[]"], "batches names none"),
        (["caches=dual", "bench.shapes=nope"], "unknown bench shape 'nope'"),
        (["caches=dual", "blocks.length=32"], "blocks.length=32 is longer than the canvas of 16"),
        (["caches=dual", "bench.size=1"], "unknown setting 'bench.size'"),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "caches", *SMALL, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(SettingsError, match=message):
        raise SettingsError(line)


def test_help_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "caches", "--help"]) == 0
    out = capsys.readouterr().out
    assert "dlm bench caches 'caches=[dual,dual:every=8,dkv_decode]'" in out
    assert "|dkv_decode|" in out
    assert main(["bench", "caches", "--cfg", "caches=[dual]"]) == 0
    assert "caches: '[dual]'" in capsys.readouterr().out
    assert main(["bench", "--help"]) == 0
    assert "  caches    what each cache saves" in capsys.readouterr().out
