"""``dlm tune``: killed and resumed, refused, without anything to find, and what it writes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import yaml

import dlm
from dlm.cli import main
from dlm.errors import SettingsError
from dlm.evaluation import tune
from dlm.evaluation.identity import Questions
from dlm.evaluation.lines import Busy, LineFile
from dlm.evaluation.tuning.answers import Asked
from dlm.evaluation.tuning.space import Interval, Space, label_of, overrides_of, settings_of
from tests.evaluation.forks import Fork, killed_while_writing

pytest.importorskip("optuna")

SMALL = (
    "task=waiting_line/copy", "epsilon=0.3", "delta=0.3", "shortlist=2", "choose=8", "tries=4",
    "reference=[sampler=topk,sampler.tokens_per_step=8,blocks=auto,cache=none,drafting=none]",
    "space.samplers=[threshold,eb]", "space.blocks=[auto]", "space.caches=[none]", "space.drafting=[none]",
)  # fmt: skip


def lines_of(out: Path) -> list[tuple[str, str]]:
    paths = sorted((out / "answers").rglob("samples*.jsonl"))
    return [(path.parent.name, json.loads(line)["instance_id"]) for path in paths for line in path.open()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tuning that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "tuned"
    found = tune(SMALL, out=out)
    assert found.chosen is not None and found.decoded == len(lines_of(out))
    return out


def test_what_is_written(whole: Path) -> None:
    tuned = yaml.safe_load((whole / "tuned.yaml").read_text())
    assert set(tuned["settings"]) >= {"sampler", "blocks", "cache", "drafting"}
    assert tuned["settings"]["model"] == "tiny"
    found = tuned["certificate"]["found"]
    assert (found["status"], tuned["certificate"]["cost"]) == ("certified", "forwards") and found["cost"] < 4
    assert "at most 0.3 below" in tuned["promise"] and tuned["command"].startswith("dlm tune task=waiting_line/copy")
    record = json.loads((whole / "certificate.json").read_text())
    assert record["looked_at"] == len(record["candidates"]) == 4
    assert record["questions"] == tuned["questions"] and record["reference"]["cost"] == 4
    named = [c for c in record["candidates"] if c["label"].startswith(tuned["settings"]["sampler"])]
    assert any(c["test"] and c["test"]["status"] == "certified" for c in named)


def test_a_finished_tuning_asks_nothing(whole: Path) -> None:
    before = (whole / "tuned.yaml").read_text()
    assert tune(SMALL, out=whole).decoded == 0
    assert (whole / "tuned.yaml").read_text() == before


@pytest.mark.parametrize("after", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_in_the_middle_of_an_answer(tmp_path: Path, whole: Path, after: int) -> None:
    def act() -> None:
        os.write = killed_while_writing(after)
        tune(SMALL, out=tmp_path / "tuned")

    assert Fork(act).wait(120) == -9
    out = tmp_path / "tuned"
    assert not (out / "tuned.yaml").exists()
    found = tune(SMALL, out=out)
    lines = lines_of(out)
    assert found.decoded == len(lines) - after
    assert max(Counter(lines).values()) == 1 and sorted(lines) == sorted(lines_of(whole))
    mine, other = ((folder / "tuned.yaml").read_text().partition("command:")[0] for folder in (out, whole))
    assert mine == other


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("epsilon=0.31", r"differs in epsilon \(0\.31, was 0\.3\)"),
        ("task=waiting_line/reverse", r"differs in tasks\.waiting_line/copy"),
        ("model=tiny-block", r"differs in model"),
        ("space.ranges.eb.gamma=[0.1]", r"differs in space\.ranges\.eb\.gamma"),
    ],
)
def test_a_folder_of_another_tuning_is_refused(whole: Path, change: str, named: str) -> None:
    key = change.partition("=")[0]
    words = [word for word in SMALL if word.partition("=")[0] != key]
    with pytest.raises(SettingsError, match=named):
        tune([*words, change], out=whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["epsilon=0.001"], r"too few questions: .*take at least \d+ to certify .* certify=20"),
        (["epsilon=0"], "epsilon must be a number between 0 and 1"),
        (["delta=1.5"], "delta must be a number between 0 and 1"),
        (["cost=money"], "cost must be one of forwards, positions, seconds"),
        (["tries=0"], "tries must be a whole number"),
        (["sampler=threshold"], r"space\.samplers=\[\.\.\.\] instead of sampler="),
        (["space.ranges.eb.gamma={low: 2, high: 1}"], r"space\.ranges\.eb\.gamma has low=2 above high=1"),
        (["space.ranges.eb.gamma={low: 2}"], "a list of values, or"),
        (["space.ranges.eb.gamma=[]"], "a list of values, or"),
        (["space.samplers=[nope]"], "unknown sampler 'nope'"),
        (["space.blocks=[nope]"], r"space\.blocks holds lengths or names"),
        (["reference=[topk]"], "reference is a list of key=value"),
        (["reference=[sampler=nope]"], "unknown sampler 'nope'"),
        (["nonsense=1"], "nonsense"),
        (["space.samplers=['threshold:transforms=[{_target_: samplers.Greedy}]']"], "plain values only"),
        (["model={_target_: os.system}"], "plain values only"),
        (["experiment=x/tuned"], "experiment= is for other commands"),
        (["epsilon=1e-9"], "are more than 1000000 together"),
        (["epsilon=1e-320", "delta=1e-320"], "are more than 1000000 together"),
        (["choose=100000000000"], "choose=100000000000 and the certifying questions"),
        (["space.ranges.eb.gamma={low: nan, high: 1}"], "a list of values, or"),
        (["space.ranges.eb.gamma={low: 0, high: inf}"], "a list of values, or"),
        (["space.ranges.eb.gamma=[nan]"], "a list of values, or"),
        (["space=3"], "space"),
        (["~space.caches"], "without caches"),
        (["space.ranges=7"], r"space\.ranges"),
        (["reference=[]"], "reference is a list of key=value for .*: '\\[\\]'"),
        (["reference=[task=waiting_line/copy]"], "reference is a list of key=value for"),
        (["reference=[model=tiny]"], "reference is a list of key=value for"),
    ],
)
def test_bad_input(tmp_path: Path, words: list[str], said: str) -> None:
    keys = [word.partition("=")[0] for word in words]
    kept = [
        w
        for w in SMALL
        if w.partition("=")[0] not in keys and not (keys[0] in ("space", "~space.caches") and "space" in w)
    ]
    with pytest.raises(SettingsError, match=said):
        tune([*kept, *words, "certify=20"], out=tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_a_reference_that_scores_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the reference scores 0 on all 8 choosing questions of waiting_line/copy"):
        tune([*SMALL, "max_new_tokens=2"], out=tmp_path)


def test_nothing_feasible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything at once, where items depend on each other: no certificate, no file, and what came nearest."""
    words = [word for word in SMALL if not word.startswith(("task=", "space.samplers", "reference"))]
    words += ["task=waiting_line/shuffle", 'space.samplers=["threshold:threshold=0.01"]', f"out={tmp_path}", "tries=1"]
    assert main(["tune", *words, "reference=[sampler=threshold]", "pictures=false"]) == 1
    told = capsys.readouterr()
    assert "no setting is certified to lose at most 0.3: the nearest is threshold:threshold=0.01, which" in told.err
    assert not (tmp_path / "tuned.yaml").exists() and (tmp_path / "certificate.json").exists()


def test_what_the_decoder_refuses_is_looked_at_and_told(tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith(("space.caches", "space.blocks"))]
    found = tune([*words, "space.caches=[block_causal]", "space.blocks=[auto]"], out=tmp_path)
    assert found.chosen is None and found.nearest is None
    assert {c.status for c in found.candidates} == {"refused"} and all(c.reason for c in found.candidates)


def test_the_command(whole: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tune", *SMALL, f"out={whole}"]) == 0
    told = capsys.readouterr().out
    assert "certified: " in told and "4 settings looked at, 0 answers by this run" in told
    assert (whole / "front.png").stat().st_size > 5000
    words = ["task=waiting_line/copy", "task.limit=2", f"out={tmp_path}", "json=true"]
    assert main(["eval", f"experiment={whole}/tuned", *words]) == 0
    assert json.loads(capsys.readouterr().out)["method"] in ("threshold", "eb")


def test_two_tasks_and_other_costs(tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith(("task=", "space.drafting"))]
    words += ["task=[waiting_line/copy,waiting_line/reverse]", "space.drafting=[none,'freedave:draft_length=2']"]
    found = tune([*words, "cost=positions", "tries=3"], out=tmp_path)
    assert found.chosen is not None and found.chosen.cost < found.reference.cost
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {"waiting_line-copy", "waiting_line-reverse"}


def test_questions_of_a_file(tmp_path: Path) -> None:
    pairs = [(a, b) for a in range(11, 95, 4) for b in (13, 38, 57)]
    lines = [json.dumps({"prompt": f"{a}+{b}=", "answer": f",{a + b}"}) for a, b in pairs]
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n")
    words = [word for word in SMALL if not word.startswith("task=")]
    words += ["task=questions", f"task.path={tmp_path}/own.jsonl", "task.match=contains", "tries=2"]
    found = tune([*words, "max_new_tokens=32"], out=tmp_path / "tuned")
    assert found.chosen is not None
    assert yaml.safe_load((tmp_path / "tuned" / "tuned.yaml").read_text())["settings"]["max_new_tokens"] == 32
    with pytest.raises(SettingsError, match=r"too few questions: .*there are 63 in all"):
        tune([*words, "epsilon=0.02"], out=tmp_path / "other")


def test_optuna_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"pip install 'dlm\[tune\]'"):
        tune(SMALL, out=tmp_path)


def test_a_folder_that_is_in_use_is_left_alone(whole: Path) -> None:
    with closing(LineFile(whole / "lock")), pytest.raises(Busy, match=r"another process is writing .*lock: wait"):
        tune(SMALL, out=whole)


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "search.db").write_text("nothing of the kind")
    with pytest.raises(SettingsError, match="cannot be used as the search's storage"):
        tune(SMALL, out=tmp_path)


def test_the_parts_of_the_questions_are_disjoint_and_mixed(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(30)))
    two = [Questions(dlm.tasks.open("questions", path=str(path))), Questions(dlm.tasks.open("waiting_line/copy"))]
    asked = Asked.of(two, 1000, 0)
    assert 50 < len(asked.places) < 80  # as many as the file lets
    assert len(set(asked.places)) == len(asked.places) and {task for task, _ in asked.places} == {0, 1}
    own = [i for task, i in asked.places if task == 0]
    assert sorted(own) == list(range(30)) != own
    assert Asked.of(two, 1000, 0) == asked != Asked.of(two, 1000, 1)
    assert asked.hash(two, 0, 10) != asked.hash(two, 10, 20)


def test_a_certificate_of_more_questions_than_anyone_has(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"certify=1000000000; .* are more than 1000000 together"):
        tune([*SMALL, "certify=1000000000"], out=tmp_path)
    with pytest.raises(SettingsError, match=r"certify=None; .* are more than 1000000 together"):
        tune([*(word for word in SMALL if not word.startswith("epsilon")), "epsilon=0.000005"], out=tmp_path)


def test_the_model_as_the_file_has_it(tmp_path: Path) -> None:
    """A folder whose name Hydra would take for more than a text."""
    found = settings_of([f"model={tmp_path}/a{{b}} c", "+model.dtype=float64", "sampler.threshold=1e-05"])
    assert found == {
        "model": "local", "model.path": f"{tmp_path}/a{{b}} c", "model.dtype": "float64", "sampler.threshold": 1e-05
    }  # fmt: skip
    with pytest.raises(SettingsError, match="plain values only, so tune cannot take ~model"):
        settings_of(["~model.dtype"])
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"settings": {**found, "sampler": "threshold"}}))
    assert dlm.compose([f"experiment={tmp_path}/x"]).model_config["path"] == f"{tmp_path}/a{{b}} c"


def test_a_question_that_stands_twice_in_a_file_is_asked_once(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i % 7}+1=", "answer": str(i % 7 + 1)}) + "\n" for i in range(30)))
    asked = Asked.of([Questions(dlm.tasks.open("questions", path=str(path)))], 1000, 0)
    assert sorted(i for _, i in asked.places) == list(range(7))


@pytest.mark.parametrize("setting", ["eb", None, {"sampler": "nope"}, {"sampler": "eb", "sampler.gamma": "x"}])
def test_a_damaged_search_is_refused(whole: Path, tmp_path: Path, setting: object) -> None:
    out = tmp_path / "tuned"
    shutil.copytree(whole, out)
    with closing(sqlite3.connect(out / "search.db")) as base, base:
        words = "update trial_user_attributes set value_json = ? where key = 'setting' and trial_id = 2"
        assert base.execute(words, (json.dumps(setting),)).rowcount == 1
    with pytest.raises(SettingsError, match=r"search\.db is damaged .* take the file away"):
        tune(SMALL, out=out)


class Trial:
    """Takes the last value, or the highest."""

    def suggest_categorical(self, name: str, values: tuple) -> object:
        return values[-1]

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return high


def test_settings_as_overrides_and_for_a_person() -> None:
    node = {"samplers": ["eb", "threshold:temperature=0.2"], "blocks": ["auto", 8], "caches": ["none", "dual"],
            "drafting": ["none"], "ranges": {"threshold": {"threshold": {"low": 0.5, "high": 0.98765}}}}  # fmt: skip
    space = Space.of(node)
    assert space.ranges["threshold"]["threshold"] == Interval(0.5, 0.98765)
    setting = space.ask(Trial())
    assert label_of(setting) == "threshold:temperature=0.2 0.98765, blocks 8, dual"
    assert overrides_of(setting) == [
        "sampler=threshold", "sampler.temperature=0.2", "sampler.threshold=0.98765", "blocks=fixed", "blocks.length=8",
        "cache=dual", "drafting=none",
    ]  # fmt: skip
    assert space.holds(setting) and not space.holds({**setting, "sampler.threshold": 0.4})
    first = space.first(1, {"threshold": 0.9})
    assert first["threshold:temperature=0.2.threshold"] == 0.9 and first["blocks"] == "auto"
