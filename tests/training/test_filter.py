"""Training of the learned filter: records, the loss, resuming, the figures, the command."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dlm
import samplers
from dlm.cli import main
from dlm.errors import CheckpointError, SettingsError
from dlm.training import filter_data
from dlm.training.checkpoint import read_checkpoint
from dlm.training.filter import FilterTraining, judge, split, train
from dlm.training.filter_data import Portion, Records, Walk, collect
from dlm.training.filter_file import Filter, read_filter
from samplers.presets.learn2pd import learn2pd, oracle
from tests.doubles import ScriptedBackbone, random_llada, wrap


def blocks(length: int) -> samplers.Fixed:
    return samplers.Fixed(None, length)


def walk_with(model: Any, **settings: Any) -> Walk:
    settings = {"block_length": 4, "levels": (0.0,), **settings}
    return Walk(model, samplers.topk, oracle, blocks, **settings)


def synthetic(lines: int, n: int = 4, prompts: int = 40) -> Records:
    """Right where the confidence is above 0.7; every position open."""
    noise = torch.Generator().manual_seed(3)
    inputs = torch.rand(lines, n, generator=noise)
    every = torch.ones(lines, n, dtype=torch.bool)
    return Records(inputs, inputs > 0.7, every, every, torch.arange(lines) % prompts)


def scripted(*predictions: tuple[int, ...]) -> Any:
    """Predicts these tokens, one tuple a forward, the earlier position the surer."""
    tables = []
    for tokens in predictions:
        sure = [0.9 - 0.1 * i for i in range(len(tokens))]
        tables.append(
            [[c if t == best else (1 - c) / 9 for t in range(10)] for c, best in zip(sure, tokens, strict=True)]
        )
    return wrap(ScriptedBackbone(tables))


def test_records_of_a_walk_by_hand() -> None:
    """Four forwards find the answer 1 2 3 4; then the walk: 1 9 3 9, 1 2 3 9, 1 2 3 4."""
    model = scripted(*[(1, 2, 3, 4)] * 4, (1, 9, 3, 9), (1, 2, 3, 9), (1, 2, 3, 4))
    records = filter_data._walked(walk_with(model), Portion("p", [[0]], 7, 4), 4)
    assert records.right.tolist() == [[True, False, True, False], [True, True, True, False], [True] * 4]
    assert records.masked.tolist() == [[True] * 4, [False, True, False, True], [False, False, False, True]]
    sure = [0.9, 0.8, 0.7, 0.6]
    assert records.inputs[0].tolist() == pytest.approx(sure)
    assert records.inputs[1].tolist() == pytest.approx([1.0, 0.8, 1.0, 0.6])
    assert records.prompt.tolist() == [7, 7, 7]
    assert bool(records.inside.all())


def test_the_published_inputs_look_at_committed_positions_too() -> None:
    """There the label says whether the model would still say the same (position 0 changes its mind)."""
    model = scripted(*[(1, 2, 3, 4)] * 4, (1, 9, 3, 9), (5, 2, 3, 4))
    records = filter_data._walked(walk_with(model, inputs="probability"), Portion("p", [[0]], 0, 4), 4)
    assert records.right.tolist() == [[True, False, True, False], [False, True, True, True]]
    assert records.inputs[1].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_short_blocks_are_filled_up() -> None:
    records = filter_data._walked(walk_with(random_llada(), shorter=(2,)), Portion("p", [[3, 1], [4]], 0, 5), 2)
    assert records.inputs.shape[1] == 4
    assert set(records.inside.sum(dim=1).tolist()) == {1, 2}
    assert not bool(records.inputs[~records.inside].any())
    assert not bool((records.masked & ~records.inside).any())


def test_a_collection_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = walk_with(random_llada(), levels=(0.0, 0.2))
    portions = [Portion(f"p{i}", [[i, 2], [i, 3]], 2 * i, 6) for i in range(3)]
    whole = Records.cat(list(collect(walk, portions, tmp_path / "whole")))
    assert sorted(whole.prompt.unique().tolist()) == [0, 1, 2, 3, 4, 5]
    begun = collect(walk, portions, tmp_path / "begun")
    next(begun), next(begun)  # and here it is killed
    made: list[str] = []
    walked = filter_data._walked
    monkeypatch.setattr(filter_data, "_walked", lambda w, p, n: (made.append(p.name), walked(w, p, n))[1])
    again = Records.cat(list(collect(walk, portions, tmp_path / "begun")))
    assert made == ["p2"]
    for name in Records.__annotations__:
        assert torch.equal(getattr(whole, name), getattr(again, name)), name


def test_records_of_other_settings_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    walk, portions = walk_with(random_llada()), [Portion("p", [[1, 2]], 0, 4)]
    list(collect(walk, portions, tmp_path))
    with pytest.raises(SettingsError, match=r"other settings \(prompts\): give out= another folder"):
        list(collect(walk, [Portion("p", [[1, 3]], 0, 4)], tmp_path))
    with pytest.raises(SettingsError, match=r"other settings \(seed\)"):
        list(collect(walk_with(random_llada(), seed=1), portions, tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="remove it"):
        list(collect(walk, portions, tmp_path))
    with pytest.raises(SettingsError, match="no prompts to learn from"):
        list(collect(walk, [], tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_length": 0}, "block_length is a whole number"),
        ({"shorter": (4,)}, "shorter lists smaller ones"),
        ({"levels": ()}, "levels lists probabilities"),
        ({"levels": (1.2,)}, "levels lists probabilities"),
        ({"inputs": "logits"}, "inputs must be one of"),
    ],
)
def test_walks_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        walk_with(None, **settings)


def test_a_rule_of_the_confidences_is_learnt() -> None:
    """Section 2.9 G of our notes: below .10 nats and above 95 % right after 2,000 steps."""
    filter, judgement = train(synthetic(4000), FilterTraining(steps=2000, batch=256, wrong_weight=1.0), "probability")
    assert judgement.loss < 0.10
    held_out = split(synthetic(4000), 0.1, 0)[1]
    decided = filter(held_out.inputs) > 0
    assert (decided == held_out.right).float().mean() > 0.95
    assert judgement.positions == held_out.masked.sum()


def test_prompts_are_on_one_side_only() -> None:
    own, held_out = split(synthetic(400), 0.25, 5)
    assert not set(own.prompt.tolist()) & set(held_out.prompt.tolist())
    assert len(set(held_out.prompt.tolist())) == 10
    assert len(own) + len(held_out) == 400
    with pytest.raises(SettingsError, match="at least 2 prompts"):
        split(synthetic(10, prompts=1), 0.1, 0)


def test_a_training_that_is_interrupted_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    records, how = synthetic(300), FilterTraining(steps=60, check_every=20, batch=64)
    expected, _ = train(records, how, "probability")
    state, looks = tmp_path / "state.safetensors", []

    class KilledError(Exception):
        pass

    from dlm.training import filter as module

    original = module._Fit.look

    def look(self: Any) -> None:
        original(self)
        step = self.progress.step
        looks.append(step)
        if step == 45 and looks.count(45) == 1:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Fit, "look", look)
        with pytest.raises(KilledError):
            train(records, how, "probability", state)
        got, _ = train(records, how, "probability", state)
    assert looks == [*range(1, 46), *range(41, 61)]
    assert all(torch.equal(a, b) for a, b in zip(expected.weights, got.weights, strict=True))
    with pytest.raises(SettingsError, match="other settings or records"):
        train(records, FilterTraining(steps=61), "probability", state)
    state.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="remove it"):
        train(records, how, "probability", state)


def test_other_seeds_give_other_filters_and_the_same_seed_the_same() -> None:
    runs = [train(synthetic(200), FilterTraining(steps=5, seed=s), "probability")[0] for s in (0, 0, 1)]
    assert torch.equal(runs[0].weight1, runs[1].weight1)
    assert not torch.equal(runs[0].weight1, runs[2].weight1)


def test_figures_by_hand() -> None:
    """A filter without an opinion, then one that takes what is above one half."""
    inputs = torch.tensor([[0.9, 0.8], [0.6, 0.2], [0.7, 0.1]])
    right = torch.tensor([[True, False], [True, True], [True, False]])
    masked = torch.tensor([[True, True], [True, True], [True, False]])
    records = Records(inputs, right, masked, torch.ones_like(masked), torch.arange(3))
    uniform_feed = Filter(torch.zeros(1, 2), torch.zeros(1), torch.zeros(2, 1), torch.zeros(2))
    figures = judge(uniform_feed, records)
    assert figures.loss == pytest.approx(math.log(2))
    assert (figures.lines, figures.positions) == (3, 5)
    assert [(b.count, b.observed) for b in figures.bins if b.count] == [(5, pytest.approx(0.8))]
    level = judge(Filter.of_threshold(0.5, 2), records).levels[10]
    assert level.threshold == 0.6
    assert (level.accepted, level.precision, level.recall) == pytest.approx((4 / 5, 3 / 4, 3 / 4))
    assert judge(Filter.of_threshold(0.5, 2), records).advised(0.25) == 0.5
    assert judge(Filter.of_threshold(0.5, 2), records).advised(0.1) == 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"held_out": 1.0}, "held_out must be between"),
        ({"lr": 0.0}, "lr and wrong_weight"),
        ({"loss_on": "some"}, "loss_on must be"),
    ],
)
def test_trainings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FilterTraining(**settings)


def test_records_without_an_open_position_are_refused() -> None:
    records = synthetic(20)
    closed = Records(records.inputs, records.right, records.masked & False, records.inside, records.prompt)
    with pytest.raises(SettingsError, match="no open position"):
        train(closed, FilterTraining(steps=1), "probability")


SMALL = ("n=3", "data=[waiting_line/copy,arithmetic/addition]", "training.steps=30", "pictures=false", "levels=[0.0]")


def test_the_command_writes_a_filter_that_decodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dlm.commands.train_filter import run

    out = tmp_path / "made"
    assert run([f"out={out}", *SMALL, "max_new_tokens=32"]) == 0
    assert "advised threshold (*)" in capsys.readouterr().out
    filter = read_filter(out / "filter.safetensors")
    assert (filter.block_length, filter.inputs, filter.card["prompts"]) == (32, "masked_probability", 6)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "6 prompts" in card and f"Advised threshold {filter.threshold}" in card
    told = json.loads((out / "judgement.json").read_text(encoding="utf-8"))
    assert (told["threshold"], told["model"]) == (filter.threshold, "tiny")
    chat = [{"role": "user", "content": 'Copy the list: ["Anna", "Bob", "Cleo"]'}]
    sampler = learn2pd(out / "filter.safetensors")
    (answer,) = dlm.generate(dlm.load("tiny"), [chat], sampler=sampler, max_new_tokens=32)
    assert answer.counts.forwards < 32
    before = (out / "filter.safetensors").read_bytes()
    assert run([f"out={out}", *SMALL, "max_new_tokens=32"]) == 0  # everything is there already
    assert (out / "filter.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from dlm.training import filter_data\n"
        "walked = filter_data._walked\n"
        "def once(walk, portion, length):\n"
        "    if portion.name.startswith('arithmetic'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return walked(walk, portion, length)\n"
        "filter_data._walked = once\n"
        "from dlm.commands.train_filter import run\n"
        f"run(['out={tmp_path}', *{SMALL!r}])\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "records").glob("*.safetensors")
    written = left.stat().st_mtime_ns
    from dlm.commands.train_filter import run

    assert run([f"out={tmp_path}", *SMALL]) == 0
    assert left.stat().st_mtime_ns == written
    assert read_checkpoint(tmp_path / "training.safetensors")[1]["step"] == 30


def asked(data: Any, n: int | None = None, portion: int = 9, new: int | None = None, **more: Any) -> Any:
    from dlm.commands.train_filter import _portions

    settings = {"column": "prompt", "split": "train"} | more
    return _portions(SimpleNamespace(data=str(data), n=n, portion=portion, max_new_tokens=new, **settings))


def test_prompts_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\nthree\n", encoding="utf-8")
    found = asked(tmp_path / "a.txt", None, 2)
    assert [(p.name, list(p.prompts), p.first, p.max_new_tokens) for p in found] == [
        ("prompts-0", ["one", "two"], 0, 256),
        ("prompts-2", ["three"], 2, 256),
    ]
    chat = [{"role": "user", "content": "x"}]
    (tmp_path / "b.jsonl").write_text(json.dumps("one") + "\n" + json.dumps(chat) + "\n", encoding="utf-8")
    assert [list(p.prompts) for p in asked(tmp_path / "b.jsonl", 2, 9, 8)] == [["one", chat]]


def test_prompts_from_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from datasets import Dataset, DatasetDict

    load = datasets.load_dataset
    table = Dataset.from_dict({"question": ["one", "two", "three"], "answer": ["1", "2", "3"]})
    table.to_csv(tmp_path / "a.csv")
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "plain")
    DatasetDict(test=table).save_to_disk(tmp_path / "split")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: table if a[0] == "o/n" else load(*a, **k))
    for data, more in (("a.csv", {}), ("a.parquet", {}), ("plain", {}), ("split", {"split": "test"})):
        (portion,) = asked(tmp_path / data, 2, column="question", **more)
        assert list(portion.prompts) == ["one", "two"], data
    (portion,) = asked("hf:o/n:main", None, column="question")
    assert list(portion.prompts) == ["one", "two", "three"]
    with pytest.raises(SettingsError, match=r"has no column 'prompt': set column= to one of 'question', 'answer'"):
        asked(tmp_path / "plain")
    for missing in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read as a dataset: "):
            asked(missing)
    Dataset.from_dict({"prompt": ["one", ""]}).save_to_disk(tmp_path / "holes")
    with pytest.raises(SettingsError, match="row 1: column 'prompt' holds neither a text nor a chat"):
        asked(tmp_path / "holes")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "out is not given"),
        (["out=OUT", "n=0"], "n must be a whole number"),
        (["out=OUT", "data=story"], "unknown task 'story'"),
        (["out=OUT", "data=[]"], "data names none"),
        (["out=OUT", "data=OUT/no.txt"], "there is no file"),
        (["out=OUT", "data=OUT/empty.txt"], "holds no prompt"),
        (["out=OUT", "data=OUT/bad.jsonl"], "line 1 is not JSON"),
        (["out=OUT", "data=OUT/number.jsonl"], "line 1 is neither a string nor a chat"),
        (["out=OUT/empty.txt"], "is a file: name a folder"),
        (["out=OUT", "training.steps=0"], "steps must be a whole number"),
        (["out=OUT", "levels=[2.0]"], "levels lists probabilities"),
        (["out=OUT", "portions=3"], "unknown setting 'portions'"),
    ],
)
def test_commands_that_are_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    from dlm.commands.train_filter import run

    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text("{\n", encoding="utf-8")
    (tmp_path / "number.jsonl").write_text("3\n", encoding="utf-8")
    given = [override.replace("OUT", str(tmp_path)) for override in overrides]
    with pytest.raises(SettingsError, match=message):
        run([*given, "pictures=false"])


def test_help_and_configuration_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-filter", "--help"]) == 0
    assert "usage: dlm train-filter" in capsys.readouterr().out
    assert main(["train-filter", "--cfg", "job", "data=x.txt"]) == 0
    assert "data: x.txt" in capsys.readouterr().out


def test_the_published_recipe_can_be_asked_for() -> None:
    """Width 32, all lines at once, a constant rate, torch's start, the last weights, a loss over all positions."""
    records = synthetic(120)
    how = FilterTraining(
        hidden=records.inputs.shape[1], steps=3, batch=None, schedule="constant", start="random", keep="last",
        loss_on="all", wrong_weight=1.0, check_every=1,
    )  # fmt: skip
    filter, _ = train(records, how, "probability")
    own, _ = split(records, how.held_out, how.seed)
    n, noise = records.inputs.shape[1], torch.Generator().manual_seed(how.seed)
    layers = [torch.nn.Linear(n, n), torch.nn.Linear(n, n)]
    with torch.no_grad():
        for parameter in (p for layer in layers for p in (layer.weight, layer.bias)):
            parameter.copy_(torch.rand(parameter.shape, generator=noise) * 2 * n**-0.5 - n**-0.5)
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(3):
        optimiser.zero_grad()
        logits, inside = network(own.inputs), own.inside
        torch.nn.functional.binary_cross_entropy_with_logits(logits[inside], own.right[inside].float()).backward()
        optimiser.step()
    for weight, parameter in zip(filter.weights, network.parameters(), strict=True):
        torch.testing.assert_close(weight, parameter.detach())
