"""Questions of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlm import tasks
from dlm.errors import SettingsError


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": f"the sum {i + 1}"}) + "\n" for i in range(3)))
    return str(file)


def test_they_are_asked_and_judged(path: str) -> None:
    task = tasks.open("questions", path=path)
    assert (task.size, task.instance(1).prompt, task.instance(1).target) == (3, "1+1=", "the sum 2")
    one = task.instance(1)
    assert task.judge(one, " the  sum\n2 ").score == 1
    assert task.judge(one, "it is the sum 2.").error == "wrong"
    loose = tasks.open("questions", path=path, match="contains")
    assert loose.judge(one, "it is the sum 2.").score == 1 and loose.judge(one, "2").score == 0
    assert task.identity == loose.identity


def test_bad_input(path: str, tmp_path: Path) -> None:
    for options, said in (({}, "give task.path"), ({"path": path, "match": "x"}, "task.match must be one of"),
                          ({"path": str(tmp_path / "no.jsonl")}, "there is no file")):  # fmt: skip
        with pytest.raises(SettingsError, match=said):
            tasks.open("questions", **options)
    Path(path).write_text('{"prompt": "x", "answer": "y"}\n{"prompt": "x", "answer": " \\n"}\n')
    assert tasks.open("questions", path=path).size == 2
    with pytest.raises(SettingsError, match="record 2 has nothing but blanks under 'answer'"):
        tasks.open("questions", path=path, match="contains")
    Path(path).write_text('{"prompt": "x"}\n')
    with pytest.raises(SettingsError, match="no text under 'answer'"):
        tasks.open("questions", path=path)
