"""``dlm drift``: what must be zero is, what is not agrees with the model asked by hand and with the free run."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.cli import main
from dlm.errors import SettingsError, StorageError
from dlm.evaluation.drift import Drift, KeyDrift, OutputDrift, StepDrift, measure
from dlm.evaluation.drift_pictures import draw
from tests.cache.runs import FAMILIES, PROMPT, PROMPTS, one_layer
from tests.cache.steps import Stepper
from tests.doubles import random_llada

BLOCK = samplers.Fixed(8)
EXACT_ON_ONE_LAYER = {
    "dual": cache.dual(),
    "prefix": cache.prefix(),
    "vicinity": cache.vicinity(2, 2),
    "dkv_decode": cache.dkv_decode(),
    "dkv_pd": cache.dkv_pd(),
    "freecache": cache.freecache(),
    "entropy": cache.entropy(),
    "recap": cache.recap(),
}


def told(model: Any, policy: Any, sampler: Any = None, **settings: Any) -> Drift:
    """The drift over three prompts of different lengths, two rows at a time: one waits, and one is compacted away."""
    settings = {"max_new_tokens": 16, "batch_size": 2, **settings}
    return measure(model, PROMPTS, sampler or samplers.topk(blocks=BLOCK), policy, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_that_recomputes_everything_has_no_drift(family: str) -> None:
    drift = told(FAMILIES[family](), cache.dkv_decode(interval=1))
    assert len(drift.steps) == 3 * 16
    assert all(step.age == 0 and step.agreement == 1 and step.same_choice for step in drift.steps)
    assert all(step.worst_place == step.committed == 1 for step in drift.steps)
    assert max(abs(f) for s in drift.steps for f in (s.kl_max, s.prob_gap, s.entropy_gap)) <= 1e-12
    assert all(line.key_distance == line.value_distance == 0 for line in drift.keys)
    assert all(line.key_cosine == pytest.approx(1) for line in drift.keys)
    assert (drift.mean_kl, drift.agreement, drift.same_choice, drift.hamming) == (pytest.approx(0, abs=1e-12), 1, 1, 0)
    assert drift.first_divergence is None
    assert drift.token_forwards_ratio == 1


@pytest.mark.parametrize("name", ["klass", "wino", "slowfast", "prophet", "localleap", "credit", "remdm"])
def test_it_has_none_with_samplers_that_remember_look_twice_or_take_back(name: str) -> None:
    drift = told(random_llada(), cache.dkv_decode(interval=1), getattr(samplers, name)(blocks=BLOCK), max_new_tokens=8)
    assert drift.max_kl <= 1e-12
    assert drift.same_choice == drift.agreement == 1
    assert drift.hamming == 0


@pytest.mark.parametrize("sampler", [samplers.topk(blocks=BLOCK, guidance=1.0), samplers.adablock(delimiters=[3])])
def test_guidance_and_blocks_that_are_settled_after_the_forward(sampler: Any) -> None:
    exact = told(random_llada(), cache.dkv_decode(interval=1), sampler)
    assert exact.max_kl <= 1e-12
    assert exact.same_choice == 1
    assert told(random_llada(), cache.prefix(), sampler).max_kl > 1e-6
    assert told(one_layer("llada"), cache.prefix(), sampler).max_kl < 1e-9


@pytest.mark.covering
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EXACT_ON_ONE_LAYER)
def test_on_one_layer_the_stamp_rule_is_enough(name: str, family: str) -> None:
    drift = told(one_layer(family), EXACT_ON_ONE_LAYER[name])
    assert any(step.age > 0 for step in drift.steps)
    assert drift.max_kl < 1e-9
    assert max(line.key_distance for line in drift.keys) < 1e-9
    assert min(line.value_cosine for line in drift.keys) > 1 - 1e-9
    assert drift.same_choice == drift.agreement == 1
    assert drift.hamming == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_cache_of_block_causal_models(family: str) -> None:
    """Zero in the answers and in every key that is in sight; those behind the active block are not held against it."""
    model = FAMILIES[family](layers=2)
    model.description = model.backbone.description = replace(model.description, attention_block=4)
    sampler = samplers.topk(blocks=samplers.Fixed(4))
    drift = told(model, cache.block_causal(), sampler)
    assert drift.max_kl < 1e-9
    assert drift.same_choice == 1
    assert max(line.key_distance for line in drift.keys) < 1e-9
    first = [line for line in drift.keys if (line.prompt, line.step, line.kind) == (0, 0, "masks")]
    assert all(0 < line.positions < 16 for line in first)


class WithoutDelay(cache.Run):
    """Takes every stored key for the present token's: what the stamp rule forbids."""

    def end(self, view: Any, chosen: Any) -> dict[str, Any]:
        report = super().end(view, chosen)
        self.stamps = view.canvas.tokens.clone()
        return report


class Undelayed(cache.DKVDecode):
    """dKV-Cache without its delay."""

    def open(self, layout: Any) -> WithoutDelay:
        return WithoutDelay(self, layout)


def test_a_cache_that_keeps_the_keys_of_masks_is_found_out_on_one_layer() -> None:
    drift = told(one_layer("llada"), Undelayed(interval=100))
    assert drift.max_kl > 1e-3
    worst = {kind: max((k.key_distance for k in drift.keys if k.kind == kind), default=0.0) for kind in set_of(drift)}
    assert worst.pop("decided_since") > 0.1
    assert max(worst.values()) < 1e-9


def set_of(drift: Drift) -> set[str]:
    return {line.kind for line in drift.keys}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", [cache.dual(every=4), cache.prefix()])
def test_on_two_layers_drift_grows_and_ends_at_a_refresh(policy: Any, family: str) -> None:
    drift = told(FAMILIES[family](), policy)
    fresh = [step for step in drift.steps if step.age == 0]
    later = [step for step in drift.steps if step.age > 0]
    every = 4 if isinstance(policy, cache.Dual) else 8
    assert [step.step for step in fresh] == list(range(0, 16, every)) * 3
    assert max(step.kl_max for step in fresh) <= 1e-12
    assert fmean(step.kl_mean for step in later) > 1e-4
    assert all(line.key_distance <= 1e-12 for line in drift.keys if line.age == 0 or line.layer == 0)
    stale = [line for line in drift.keys if line.age > 0 and line.layer == 1 and line.kind == "prompt"]
    assert min(line.key_distance for line in stale) > 1e-6
    assert set_of(drift) == {"prompt", "decided_before", "decided_since", "masks"}


def test_figures_of_a_step_by_hand() -> None:
    """The second step of a dual cache, driven without the decoder, beside a model that is asked directly."""
    model = random_llada()
    drift = measure(model, [PROMPT], samplers.topk(blocks=BLOCK), cache.dual(), max_new_tokens=16)
    answer = dlm.generate(model, [PROMPT], sampler=samplers.topk(blocks=BLOCK), max_new_tokens=16)[0]
    first = answer.commit_step.index(0)
    stepper = Stepper(model, cache.dual(), [PROMPT])
    stepper.forward()
    stepper.commit({len(PROMPT) + first: answer.tokens[first]})
    stepper.finish()
    masked = [i for i in range(8) if i != first]
    cached = stepper.forward()[0, masked].log_softmax(1)
    fresh = Stepper(model, cache.dual(), [PROMPT])
    fresh.canvas.tokens = stepper.canvas.tokens
    exact = fresh.forward()[0, masked].log_softmax(1)

    kl = (exact.exp() * (exact - cached)).sum(1).tolist()
    step = drift.steps[1]
    assert (step.step, step.age, step.fed, step.candidates) == (1, 1, 8, 7)
    assert (step.kl_mean, step.kl_median, step.kl_max) == pytest.approx((fmean(kl), median(kl), max(kl)))
    assert step.kl_max > 1e-4
    exact[:, model.description.mask_id] = cached[:, model.description.mask_id] = -math.inf
    (p, token), (q, other) = exact.exp().max(1), cached.exp().max(1)
    assert step.agreement == pytest.approx((token == other).double().mean().item())
    assert step.prob_gap == pytest.approx((p - q).abs().mean().item())
    committed = masked.index(answer.commit_step.index(1))
    assert step.same_choice == (q.argmax().item() == committed)
    assert step.worst_place == 1 + (q > q[committed]).sum().item()

    (line,) = (k for k in drift.keys if (k.step, k.layer, k.kind) == (1, 1, "prompt"))
    old, new = (s.run.store.keys[1][0, : len(PROMPT)] for s in (stepper, fresh))
    assert line.positions == len(PROMPT)
    assert line.key_distance == pytest.approx(((old - new).norm() / new.norm()).item())
    cosine = torch.nn.functional.cosine_similarity(old.flatten(1), new.flatten(1), dim=1)
    assert line.key_cosine == pytest.approx(cosine.mean().item())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", [name for name in cache.PRESETS if name != "block_causal"])
def test_the_replay_says_where_the_free_run_parts(name: str) -> None:
    """Until it parts, a free run sees just what the replay sees: the same choices, and positions fed."""
    sampler = samplers.random(blocks=BLOCK) if name == "dkv_greedy" else samplers.topk(blocks=BLOCK)
    settings = {"ahead": 4} if name == "window" else {"before": 2, "after": 2} if name == "vicinity" else {}
    drift = told(random_llada(seed=3), getattr(cache, name)(**settings), sampler)
    rows = defaultdict(list)
    for step in drift.steps:
        rows[step.prompt].append(step)
    for output in drift.outputs:
        steps, parted = rows[output.prompt], output.first_divergence
        assert all(step.same_choice for step in steps[:parted])
        if parted is None:
            assert output.hamming == 0
            assert sum(step.fed for step in steps) == output.cached_token_forwards
        else:
            assert not steps[parted].same_choice or steps[parted].agreement < 1
    assert drift.token_forwards_ratio > (1 if name not in ("none", "adaptive") else 0.99)


def test_outputs_are_those_of_generate() -> None:
    model, sampler = random_llada(), samplers.threshold(0.6, blocks=BLOCK)
    drift = told(model, cache.dual(), sampler)
    exact, cached = (
        dlm.generate(model, PROMPTS, sampler=sampler, cache=c, max_new_tokens=16) for c in (None, cache.dual())
    )
    for output, a, b in zip(drift.outputs, exact, cached, strict=True):
        assert output.hamming == sum(x != y for x, y in zip(a.tokens, b.tokens, strict=True))
        assert (output.forwards, output.cached_forwards) == (a.counts.forwards, b.counts.forwards)
        assert (output.token_forwards, output.cached_token_forwards) == (
            a.counts.token_forwards,
            b.counts.token_forwards,
        )
    assert drift.hamming == sum(o.hamming for o in drift.outputs) / 48 > 0
    one_by_one = told(model, cache.dual(), sampler, batch_size=1)
    assert one_by_one.outputs == drift.outputs
    assert one_by_one.mean_kl == pytest.approx(drift.mean_kl, rel=1e-6)


def test_summary_of_known_figures() -> None:
    def step(number: int, candidates: int, kl: tuple[float, float, float], agreement: float, same: bool) -> StepDrift:
        return StepDrift(0, number, number, 3, candidates, *kl, agreement, 0, 0, 1, same, 1)

    drift = Drift(
        (step(0, 3, (0.1, 0.2, 0.5), 1.0, True), step(1, 1, (0.5, 0.4, 0.4), 0.0, False)),
        (),
        (
            OutputDrift(0, 4, 1, 7, 2, 2, 30, 10),
            OutputDrift(1, 6, 0, 5, 2, 2, 30, 20),
            OutputDrift(2, 6, 3, None, 1, 1, 3, 1),
        ),
    )
    assert drift.mean_kl == pytest.approx((3 * 0.1 + 0.5) / 4)
    assert (drift.median_kl, drift.max_kl) == (pytest.approx(0.3), 0.5)
    assert (drift.agreement, drift.same_choice) == (0.75, 0.5)
    assert (drift.hamming, drift.first_divergence) == (0.25, 5)
    assert drift.token_forwards_ratio == 63 / 31


@pytest.mark.parametrize(
    ("policy", "sampler", "message"),
    [
        (cache.block_causal(), samplers.topk(), "only in a model with block-causal attention"),
        (cache.dkv_greedy(), samplers.topk(), "use sampler=random"),
        (cache.none(), samplers.lopa(), "looks ahead"),
    ],
)
def test_pairs_that_cannot_be_measured_are_refused(policy: Any, sampler: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        told(random_llada(), policy, sampler)


def test_no_prompts_are_refused() -> None:
    with pytest.raises(SettingsError, match="no prompts"):
        measure(random_llada(), [], samplers.topk(), cache.dual())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_from_the_command_line_to_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    tasks = "task=[waiting_line/copy,waiting_line/shuffle]"
    assert main(["drift", "cache=dual", tasks, "n=1", "max_new_tokens=8", "blocks.length=4", f"out={out}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dual beside no cache: 2 prompts, 8 positions, sampler topk")
    assert max(map(len, lines[:-3])) <= 80
    assert lines[-3].startswith("replayed: KL mean ")
    assert lines[-2].startswith("free run: ")
    assert lines[-1].startswith("forwards 16 -> 16, token-forwards ")
    assert sorted(path.name for path in out.iterdir()) == [
        "drift.json", "drift.png", "drift_keys.csv", "drift_outputs.csv", "drift_steps.csv"
    ]  # fmt: skip
    steps, keys, outputs = (rows_of(out / f"drift_{name}.csv") for name in ("steps", "keys", "outputs"))
    assert [(row["prompt"], row["step"]) for row in steps] == [(str(p), str(s)) for p in range(2) for s in range(8)]
    assert [row["age"] for row in steps] == ["0", "1", "2", "3"] * 4
    for rows, kind in ((steps, StepDrift), (keys, KeyDrift), (outputs, OutputDrift)):
        assert list(rows[0]) == [field.name for field in fields(kind)]
    at = {(row["prompt"], row["step"], row["layer"], row["kind"]) for row in keys}
    assert len(at) == len(keys)
    assert {row["layer"] for row in keys} == set("012345")
    kept = json.loads((out / "drift.json").read_text())
    weights = [float(row["candidates"]) for row in steps]
    mean = sum(float(row["kl_mean"]) * w for row, w in zip(steps, weights, strict=True)) / sum(weights)
    assert kept["summary"]["mean_kl"] == pytest.approx(mean)
    assert kept["settings"]["cache"] == {"_target_": "cache.dual", "every": None}
    assert (out / "drift.png").read_bytes().startswith(b"\x89PNG")


def test_a_prompt_and_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["drift", "cache=none", "prompt=[1, 2]=", "max_new_tokens=4"]) == 0
    told = capsys.readouterr().out
    assert "none beside no cache: 1 prompt, 4 positions" in told
    assert "stored keys" not in told
    assert "none parts; 0 of 4 positions differ" in told
    assert list(tmp_path.iterdir()) == []


def test_a_long_table_shares_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "cache=dkv_decode", "prompt=7+5=", "max_new_tokens=40", "cache.interval=20"]) == 0
    told = capsys.readouterr().out
    assert " 0-1 " in told
    assert " 38-39 " in told


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", cache.PRESETS)
def test_every_preset_runs_or_says_why_not(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["drift", f"cache={name}", "sampler=random", "prompt=Reverse the list: ", "max_new_tokens=4", "pictures=false"]
        + ["cache.ahead=2"] * (name == "window")
        + ["cache.before=1", "cache.after=1"] * (name in ("vicinity", "adaptive"))
    )
    out, err = capsys.readouterr()
    if name == "block_causal":
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "block-causal attention" in err
    else:
        assert (code, err) == (0, "")
        assert "same choice at" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["n=0"], "n must be a whole number of at least 1, got 0"),
        (["max_new_tokens=x"], "max_new_tokens must be"),
        (["batch_size=0"], "batch_size must be"),
        (["pictures=maybe"], "pictures must be true or false"),
        (["task=nope"], "unknown task 'nope'"),
        (["task=[]"], "task names none"),
        (["prompt=a", "task=waiting_line/copy"], "prompt= or task=, not both"),
        (["cache=nope"], "unknown cache 'nope'"),
        (["cache.interval=0"], "interval"),
        (["nonsense=1"], "unknown setting 'nonsense'"),
    ],
)
def test_refused_before_anything_is_loaded(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Reaching the model would fail. The package's own name first: it is looked up when it is first used.
    monkeypatch.setattr("dlm.load", None)
    monkeypatch.setattr("dlm.models.load", None)
    assert main(["drift", *arguments, f"out={tmp_path}/new"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dlm: error: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_later_leaves_no_files_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "cache=block_causal", f"out={tmp_path}/new"]) == 2
    assert main(["drift", f"out={tmp_path}/new", "prompt=" + "x" * 5000]) == 2
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    assert main(["drift", f"out={tmp_path}/file"]) == 2
    assert "is a file: name a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm.report.plots_points.find_spec", lambda _: None)
    assert main(["drift", "prompt=a", f"out={tmp_path}/new"]) == 2
    assert "pip install 'dlm[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drift = told(one_layer("llada"), cache.dual(), max_new_tokens=8)
    draw(drift, "a$b_{c$", tmp_path / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]

    def broken(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(StorageError, match="no space left"):
        draw(drift, "a", tmp_path / "q.png")
    assert not (tmp_path / "q.png").exists()


def test_help_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "--help"]) == 0
    told = capsys.readouterr().out
    assert "dlm drift" in told
    assert "dkv_greedy" in told
    assert main(["drift", "--cfg", "job", "prompt=[a, b]", "n=7"]) == 0
    told = capsys.readouterr().out
    assert "prompt: '[a, b]'" in told
    assert "'n': 7" in told  # a bare n is false in older YAML
    assert main(["--help"]) == 0
    assert "drift" in capsys.readouterr().out


def test_quantised_weights_beside_the_models_own(capsys: pytest.CaptureFixture[str]) -> None:
    model, prompts = dlm.load("tiny", device="cpu"), ["47+85="]
    same = measure(model, prompts, samplers.topk(), None, max_new_tokens=8, other=dlm.load("tiny", device="cpu"))
    assert (same.max_kl, same.agreement, same.hamming) == (0, 1, 0) and not same.keys
    kl = []
    for kind in ("int8", "int4"):
        other: Any = dlm.load("tiny", device="cpu", quantize=kind)
        drift = measure(model, prompts, samplers.topk(), None, max_new_tokens=8, other=other)
        tokens = torch.tensor([[*model.encode(prompts[0]), *[model.description.mask_id] * 8]])
        p, q = (m.backbone.head(m.backbone.hidden(tokens))[0, -8:].double().log_softmax(-1) for m in (model, other))
        assert drift.steps[0].kl_mean == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
        kl.append(drift.mean_kl)
    assert 0 < kl[0] < kl[1]
    assert main(["drift", "model.quantize=int8", "cache=dual", "prompt=47+85=", "max_new_tokens=4"]) == 0
    assert "int8 weights and dual beside the model itself: 1 prompt" in capsys.readouterr().out
