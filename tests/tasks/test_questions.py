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


def own(tmp_path: Path, *answers: object, **options: object) -> tasks.Task:
    """A task over records whose fields are called otherwise."""
    file = tmp_path / "named.jsonl"
    file.write_text("".join(json.dumps({"q": f"question {i}", "a": answer}) + "\n" for i, answer in enumerate(answers)))
    return tasks.open("jsonl", path=str(file), prompt_key="q", answer_key="a", **options)


@pytest.mark.parametrize(
    ("answer", "options", "output", "error"),
    [
        ("7", {}, " 7\n", None),
        ("7", {"scorer": "contains"}, "it is 7.", None),
        ("7", {"scorer": "regex", "pattern": r"is (\w+)"}, "this is 6, no, it is 7.", None),
        ("it is 7", {"scorer": "regex", "pattern": r"it\s+is\s+\d"}, "well, it  is 7", None),
        ("7", {"scorer": "regex", "pattern": r"is (\w+)"}, "7", "no_match"),
        (7, {"scorer": "number"}, "3 + 4 = 7.0\nHuman: 8", None),
        (0.5, {"scorer": "number"}, "\\boxed{\\frac{1}{2}}", None),
        (7, {"scorer": "number"}, "eight", "no_number"),
        (7, {"scorer": "number"}, "It is 8", "wrong"),
        ("assert f(2) == 4", {"scorer": "python"}, "```python\ndef f(x):\n    return 2 * x\n```", None),
        ("assert f(2) == 4", {"scorer": "python"}, "def f(x):\n    return x", "wrong"),
        ("assert f(2) == 4\nassert g(1) == 5", {"scorer": "python"}, "def f(x):\n    return 4\ng = lambda x: 5", None),
    ],
)
def test_scorers(answer: object, options: dict[str, str], output: str, error: str | None, tmp_path: Path) -> None:
    task = own(tmp_path, answer, **options)
    verdict = task.judge(task.instance(0), output)
    assert (verdict.score, verdict.error) == (float(error is None), error)
    assert task.canvas == (512 if options.get("scorer") == "python" else 64)


@pytest.mark.parametrize(
    ("answer", "options", "said"),
    [
        ("7", {"scorer": "bleu"}, "task.scorer must be one of exact, contains, regex, number, python, got 'bleu'"),
        ("7", {"scorer": "regex"}, "task.scorer=regex needs task.pattern"),
        ("7", {"pattern": "x"}, "no other takes one"),
        ("7", {"scorer": "regex", "pattern": "("}, r"task.pattern=\( is no regular expression"),
        (" ", {"scorer": "contains"}, "record 1 has nothing but blanks under 'a': every output contains"),
        (" ", {"scorer": "regex", "pattern": "x"}, "record 1 has nothing but blanks under 'a': give an answer"),
        ("seven", {"scorer": "number"}, "record 1 has no number under 'a'"),
        ("assert (", {"scorer": "python"}, "record 1 has no Python under 'a'"),
        (["7"], {}, "line 1 has no text under 'a': task.path needs q, a; it has q, a"),
        ("7", {"match": "exact"}, "task jsonl has no option 'match'"),
    ],
)
def test_bad_settings(answer: object, options: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        own(tmp_path, answer, **options)
