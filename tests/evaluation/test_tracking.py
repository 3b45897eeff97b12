"""``tracker=``: points told to an experiment tracker, whose faults lose nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate import tracking

from dlm.cli import main
from dlm.evaluation import tracking as ours


class Told:
    """A tracker that keeps what it is told."""

    said: ClassVar[list[tuple[str, Any]]] = []
    fails = False

    def __init__(self, run_name: str, **how: Any) -> None:
        self.said.append(("run", {"run_name": run_name, **how}))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        if self.fails:
            raise ConnectionError("no network")
        print("a tracker's own words")  # not where figures go
        self.said.append(("settings", values))

    def log(self, values: dict[str, Any], step: int) -> None:
        self.said.append(("figures", values))

    def finish(self) -> None:
        self.said.append(("end", None))


def test_a_point_is_told_and_a_tracker_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Told, "said", [])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Told)
    monkeypatch.setattr(ours, "find_spec", lambda name: name if name == "wandb" else None)
    words = ["eval", "task=waiting_line/copy", "sampler.threshold=0.8", f"out={tmp_path}", "tracker=wandb"]
    assert main([*words, "task.limit=2", "json=true"]) == 0
    figures = json.loads(capsys.readouterr().out)
    told = dict(Told.said)
    assert list(told) == ["run", "settings", "figures", "end"]
    assert told["settings"]["sampler.threshold"] == 0.8 and told["run"]["run_name"] == "dlm"
    assert told["figures"]["accuracy"] == figures["accuracy"] and told["figures"]["n"] == 2
    assert figures["hash"] in told["run"]["name"]
    Told.said.clear()
    assert main([*words, "task.limit=2"]) == 0 and not Told.said  # nothing new: nothing is told
    monkeypatch.setattr(Told, "fails", True)
    assert main([*words, "task.limit=3"]) == 0
    assert "tracker=wandb was not told" in capsys.readouterr().err
    assert len((next(tmp_path.rglob("samples.jsonl"))).read_text().splitlines()) == 3
    for name, said in (("mlflow", "pip install mlflow"), ("pencil", "tracker must be")):
        assert main([*words[:-1], f"tracker={name}"]) == 2
        assert said in capsys.readouterr().err
