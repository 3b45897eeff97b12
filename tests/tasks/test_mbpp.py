"""MBPP: the problems of a split, and programs that are run against their assertions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlm import tasks
from dlm.errors import SettingsError
from dlm.tasks.sandbox import Limits
from dlm.tasks.tested import tested as run_tested

PATH = str(Path(__file__).parent.parent / "data" / "mbpp" / "problems.jsonl")
RIGHT = "def doubled(numbers):\n    return [n + n for n in numbers]"


def test_questions() -> None:
    task = tasks.open("mbpp", path=PATH)
    assert (task.size, task.canvas) == (2, 512)
    assert [task.instance(i).meta["task_id"] for i in range(2)] == ["11", "12"]
    assert len(task.instance(0).messages) == 7
    assert len(tasks.open("mbpp", path=PATH, shots=0).instance(0).messages) == 1
    assert all(task.judge(task.instance(i), task.instance(i).target).score == 1 for i in range(2))


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (f"{RIGHT}\n[DONE]\nassert False", None),
        (f"[BEGIN]\n{RIGHT}\n[DONE]", None),
        (f"Here it is:\n```python\n{RIGHT}\n```\nIt adds.", None),
        ("def doubled(numbers):\n    return numbers", "wrong"),
        ("def tripled(numbers):\n    return numbers", "exception"),
        ("def doubled(numbers:", "syntax"),
        ("", "no_code"),
        ("[DONE]", "no_code"),
        ("def doubled(numbers):\n    import os; os._exit(0)", "unfinished"),
        ("import os\nos._exit(0)\n" + RIGHT, "unfinished"),
    ],
)
def test_verdicts(output: str, error: str | None) -> None:
    task = tasks.open("mbpp", path=PATH)
    verdict = task.judge(task.instance(0), output)
    assert (verdict.score, verdict.error) == (float(error is None), error)


def test_tests_of_several_names_run_in_the_program() -> None:
    code = "def a(x):\n    return x\n\ndef b(x):\n    return a(x) + 1"
    assert run_tested(code, "assert a(1) == 1\nassert b(1) == 2", Limits()).score == 1
    assert run_tested(code, "assert a(1) == 1\nassert b(1) == 3", Limits()).error == "wrong"
    assert run_tested("def sum(a, b):\n    return a", "assert sum(1, 2) == 1", Limits()).score == 1
    assert run_tested("x = 3", "assert x == 3", Limits()).score == 1


def test_bad_input(tmp_path: Path) -> None:
    for options, said in (({"shots": 4}, "from 0 to 3"), ({"split": "dev"}, "one of prompt, test")):
        with pytest.raises(SettingsError, match=said):
            tasks.open("mbpp", path=PATH, **options)
    assert tasks.open("mbpp", path=PATH, split="train").size == 3  # a file without problems of the split, as it is
    file = tmp_path / "own.jsonl"
    file.write_text('{"task_id": 11, "text": "x", "code": "y", "test_list": "assert 1"}\n')
    with pytest.raises(SettingsError, match=r"no list of texts under 'test_list'.*it has task_id, text, code"):
        tasks.open("mbpp", path=str(file))
