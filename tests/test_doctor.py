"""``dlm doctor``: every line says what is there."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

import dlm
from dlm.commands import doctor
from dlm.errors import SettingsError
from dlm.tasks import sandbox


def checks(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, dict[str, str]]:
    assert doctor.run([*overrides, "json=true"]) == 0
    lines = json.loads(capsys.readouterr().out)["checks"]
    assert all(line["state"] in ("yes", "no", "look") for line in lines)
    assert len({(line["area"], line["name"]) for line in lines}) == len(lines)
    return {line["name"]: line for line in lines}


def test_the_table_names_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert doctor.run([]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("machine", "storage", "extras", "sandbox", *doctor.PACKAGES, "link-parser", "java", "chromium"):
        assert f" {word} " in text, word


def test_what_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    found = checks(capsys, f"out={tmp_path / 'not' / 'yet'}")
    assert found["dlm"]["found"] == dlm.__version__
    assert found["Python"]["found"].startswith(sys.version.split()[0])
    assert found["torch"]["state"] == "yes"
    assert found["results"]["state"] in ("yes", "look") and "GiB free" in found["results"]["found"]
    assert not (tmp_path / "not").exists()
    assert (found["HF_HUB_OFFLINE"]["state"], found["HF_DATASETS_OFFLINE"]["state"]) == ("look", "yes")
    assert found["level"]["found"].startswith(sandbox.level())


def test_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", ("nothing", "pip install nothing"))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 20))
    found = checks(capsys, f"out={tmp_path / 'file' / 'below'}")
    assert found["results"]["state"] == "no" and "is a file" in found["results"]["found"]
    assert found["no-such-package"] == {
        "area": "extras", "name": "no-such-package", "state": "no", "found": "not installed",
        "use": "nothing: pip install nothing",
    }  # fmt: skip
    assert "apt install link-grammar" in found["link-parser"]["use"]
    assert checks(capsys, f"out={tmp_path}")["results"]["state"] == "look"


def test_levels_of_the_sandbox(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    strong = sandbox.run_program
    without = ("namespaces", "landlock", "seccomp")
    monkeypatch.setattr(sandbox, "run_program", lambda source: strong(source, without=without))
    found = checks(capsys)["level"]
    assert found["state"] == "look" and found["found"] == "hook (hook)" and "container" in found["use"]
    monkeypatch.setattr(sandbox, "run_program", lambda source: strong("assert False"))
    assert checks(capsys)["level"]["state"] == "no"
    monkeypatch.setattr(sandbox, "_CHILD", "raise RuntimeError('{}')")
    monkeypatch.setattr(sandbox, "run_program", strong)
    found = checks(capsys)["level"]
    assert found["state"] == "no" and "did not start" in found["found"]


def test_a_model_is_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = checks(capsys, "model=tiny")
    assert found["tiny"]["state"] == found["chat template"]["state"] == found["round trip"]["state"] == "yes"
    assert "mask" in found["tiny"]["found"] and found["canvases"]["area"] == "model"
    assert "waiting_line/copy" not in found["canvases"]["found"].replace("parallelbench/waiting_line/copy", "")
    found = checks(capsys, "model=local", f"model.path={tmp_path}")
    assert found[str(tmp_path)]["state"] == "no"


def test_small_canvases_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm.tasks.every", lambda: ["waiting_line/copy", "gsm8k"])
    assert "right answers of 1 tasks fit" in checks(capsys, "model=tiny")["canvases"]["found"]
    monkeypatch.setattr("dlm.tasks.longest_answer", lambda task, tokenizer, n: 1000)
    found = checks(capsys, "model=tiny")["canvases"]
    assert found["state"] == "look" and "waiting_line/copy 1000 > " in found["found"]


def test_bad_settings() -> None:
    for overrides, message in (
        (["sampler=threshold"], "knows out, model, json"),
        (["nonsense"], "knows out, model, json"),
        (["json=perhaps"], "json must be"),
        (["model=nonsense"], "nonsense"),
        (["model.nonsense=1"], "nonsense"),
    ):
        with pytest.raises(SettingsError, match=message):
            doctor.run(overrides)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("dlm doctor: ") and "examples:" in text
