"""A task of the user's own: it is called what it calls itself, and what it does wrong is one sentence."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlm.commands.eval import run as run_eval
from dlm.commands.tasks import run as run_tasks
from dlm.errors import SettingsError
from dlm.evaluation.identity import Questions
from dlm.tasks import Instance, Task, Verdict
from dlm.tasks.checks import checked_instance, checked_task, checked_verdict
from dlm.tasks.registry import get, metric

GOOD = Instance("i0", "mine/first", "47+85=", "132", {})


@dataclass(frozen=True)
class Own:
    """Three questions."""

    name: str = "mine/first"
    canvas: int = 8
    size: Any = 3
    identity: Any = None
    metric: str = "what I like"
    given: Any = GOOD
    verdict: Any = None

    def instance(self, index: int) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return replace(GOOD, instance_id=f"i{index}") if self.given is GOOD else self.given

    def judge(self, instance: Instance, output: str) -> Any:
        return self.verdict or Verdict(1.0)


class Plain(Own):
    """One that takes nothing."""

    def __init__(self) -> None:
        super().__init__(name="mine/plain", identity={})


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("mine")

    def own(name: str = "mine/first") -> Task:
        return Own(name=name, identity={})  # type: ignore[return-value]

    mine.Own, mine.Plain = own, Plain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", mine)


@pytest.mark.parametrize(("target", "name"), [("mine.Own", "mine/first"), ("mine.Plain", "mine/plain")])
def test_it_is_stored_and_shown_under_its_own_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, name: str
) -> None:
    asked = ["task=waiting_line/copy", f"task._target_={target}"]
    run_eval([*asked, f"out={tmp_path}", "max_new_tokens=4", "task.limit=100"])
    shown = capsys.readouterr().out
    assert f"{name} with" in shown and "3 of 3" in shown and "what I like" in shown
    (folder,) = (tmp_path / name.replace("/", "-")).iterdir()
    assert json.loads((folder / "config.json").read_text())["task"]["name"] == name
    assert {json.loads(line)["task"] for line in (folder / "samples.jsonl").read_text().splitlines()} == {name}
    run_tasks([asked[0].removeprefix("task="), asked[1]])
    assert capsys.readouterr().out.startswith(f"{name}, question 0 of 3")


def test_a_name_that_is_asked_for_is_given(tmp_path: Path) -> None:
    run_eval(["task=waiting_line/copy", "task._target_=mine.Own", "task.name=mine/other", f"out={tmp_path}",
              "max_new_tokens=2", "task.limit=1"])  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["mine-other"]


def test_its_metric_comes_from_the_object() -> None:
    assert metric(get("arithmetic/addition")) == "the sum"
    assert metric(Own(name="arithmetic/addition")) == "what I like"
    assert metric(Own(name="arithmetic/addition", metric="")) == "its own scorer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name must be"),
        ({"name": 3}, "name must be"),
        ({"canvas": 0}, "canvas must be"),
        ({"canvas": "8"}, "canvas must be"),
        ({"size": -1}, "size must be"),
        ({"size": 2.5}, "size must be"),
        ({"identity": None}, "identity must be"),
    ],
)
def test_an_object_that_is_no_task_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"Own is no task: its {message}"):
        checked_task(Own(**{"identity": {}, **changes}))
    with pytest.raises(SettingsError, match="dict is no task"):
        checked_task({})


@pytest.mark.parametrize(
    "given",
    [None, "47+85=", {"prompt": "x"}, replace(GOOD, prompt=None), replace(GOOD, target=3), replace(GOOD, meta=None),
     replace(GOOD, instance_id=7), TypeError("odd")],
)  # fmt: skip
def test_a_question_of_the_wrong_kind_is_one_sentence(given: Any) -> None:
    task = Own(given=given)
    for ask in (lambda: checked_instance(task, 0), lambda: Questions(task).first(1)):
        with pytest.raises(SettingsError, match=r"task mine/first: instance\(0\)"):
            ask()


@pytest.mark.parametrize(
    "verdict",
    [1.0, True, None, "right", (1.0, None), Verdict("1"), Verdict(None), Verdict(float("nan")), Verdict(1.5),  # type: ignore[arg-type]
     Verdict(-0.1), Verdict(1.0, strict=2), Verdict(1.0, error=3), Verdict(1.0, parts={"a": "b"}),  # type: ignore[arg-type]
     Verdict(1.0, parts=[1])],  # type: ignore[arg-type]
)  # fmt: skip
def test_a_verdict_of_the_wrong_kind_is_one_sentence(verdict: Any) -> None:
    with pytest.raises(SettingsError, match=r"task mine/first: judge\(\) must give"):
        checked_verdict(Own(), verdict)


def test_a_verdict_is_kept_in_plain_numbers() -> None:
    import numpy as np

    found = checked_verdict(Own(), Verdict(np.float32(0.5), strict=True, parts={"a": np.int64(1)}))  # type: ignore[arg-type, dict-item]
    assert found == Verdict(0.5, 1.0, parts={"a": 1.0}) and type(found.score) is float
