"""What the README, its pages and every ``--help`` say works: their Python and command lines run."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from dlm.cli import COMMANDS, HELP, main
from dlm.commands import sweep
from dlm.commands.generate import KNOWN
from dlm.tasks import get, names
from dlm.trace import load_traces
from scripts import demo

ROOT = Path(__file__).parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/command_line.md", "docs/python.md")
}
BLOCKS = [
    (*found, name) for name, text in PAGES.items() for found in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
]
LINES = [line for language, block, _ in BLOCKS for line in block.splitlines() if language == ""]
HELPS = [HELP, sweep.HELP, *(import_module(module.partition(":")[0]).HELP for module, _ in COMMANDS.values())]
LINES += [line.strip() for text in HELPS for line in text.partition("examples:")[2].replace("\\\n", " ").splitlines()]
EXAMPLES = sorted({re.split(r" +#|  +", line)[0] for line in LINES if re.match(r"dlm [a-z-]+( [^A-Z\[]|$)", line)})
# What needs a network, another model, a GPU, a cluster or minutes; its settings are composed only.
FAR = re.compile(
    r"model=(?!tiny)|prompts_file|data=|lm-eval|submitit|dlm (bench|oracle|pull|serve|train|train-filter|tune|COMMAND)"
    r"|grid=|url=|eval -m|seeds=|experiment=|(samplers|caches)=all|samplers=\[thr.*(n=100|topk:)|filter="
    r"|report runs/a|runs rule|task.limit=100|FILE|DIR|reproduce (fast-dllm|all limit)|check (sampler|my_)"
    r"|drift.*(dkv_decode$|random|out=drift)|out=/scratch"
)
NEAR = [line for line in EXAMPLES if not FAR.search(line)]
# Commands that read what another one has written.
FIRST = {
    "dlm report": ["dlm eval task=waiting_line/copy task.limit=2 out=runs"],
    "dlm trace": [
        'dlm generate \'prompt=Shuffle the list: ["Anna", "Bob", "Cleo"]\' max_new_tokens=32 trace=run.jsonl'
    ],
}


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    short, code = [block for language, block, _ in BLOCKS if language == "python"]
    exec(compile(short, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[0].startswith('["Cleo", "Bob", "Anna"] ')
    exec(compile(code, "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith('["Cleo", "Bob", "Anna"] ')
    assert len(printed) > 6  # the stream has several steps
    assert printed[-1] == 'Copy the list: ["Anna", "Bob", "Cleo"]["Anna", "Bob", "Cleo"]'


def test_there_are_examples_of_every_command() -> None:
    assert {line.split()[1] for line in EXAMPLES} == set(COMMANDS)
    assert {line.split()[1] for line in NEAR} >= {"generate", "eval", "report", "tasks", "compare", "trace", "drift"}


@pytest.mark.parametrize("line", NEAR)
def test_the_command_lines_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for before in FIRST.get(" ".join(line.split()[:2]), []):
        assert main(shlex.split(before)[1:]) == 0
    capsys.readouterr()
    assert main(shlex.split(line.partition(" > ")[0])[1:]) == 0
    shown = capsys.readouterr().out
    assert shown.strip()
    if "Reverse the list" in line:
        assert shown.startswith('["Cleo", "Bob", "Anna"]')
    if "47+85=" in line and "json" not in line and "generate" in line:
        assert shown.strip().endswith(",132")
    if "trace=" in line:
        (trace,) = load_traces("run.jsonl")
        assert len(trace.steps) > 3


@pytest.mark.parametrize("line", [line for line in EXAMPLES if " generate " in line and FAR.search(line)])
def test_the_commands_with_files_compose(line: str) -> None:
    from dlm.configuration import compose

    words = [
        w for w in shlex.split(line)[2:] if not w.startswith(("prompt", "--", "format", "output", "sampler.filter"))
    ]
    assert compose([w.replace("model.path=DIR", "model.path=somewhere") for w in words]).sampler


def test_the_demo_shows_what_haste_costs() -> None:
    import dlm

    shuffled = {}
    for name, sampler in demo.RUNS.items():
        chat = [{"role": "user", "content": demo.PROMPTS[-1]}]
        shuffled[name] = sorted(json.loads(dlm.generate("tiny", [chat], sampler=sampler, max_new_tokens=32)[0].text))
    people = ["Anna", "Bob", "Cleo", "Dan"]
    assert [shuffled[name] == people for name in demo.RUNS] == [True, True, False]


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [
        ("hi", True),
        ("Why is the sky blue?", True),
        ("47+85=", False),
        ('Copy the list: ["Anna", "Bob", "Cleo"]', False),
    ],
)
def test_a_question_the_packaged_model_does_not_know_gets_a_hint(
    prompt: str, hint: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", f"prompt={prompt}", "max_new_tokens=8"]) == 0
    assert ("`dlm tasks`" in capsys.readouterr().err) is hint


@pytest.mark.parametrize("name", names())
def test_its_own_questions_get_none(name: str) -> None:
    for index in range(20):
        assert KNOWN.search(get(name).instance(index).messages[-1]["content"])


def test_the_hint_for_no_prompt_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate"]) == 2
    (line,) = re.findall(r"dlm generate '.*", capsys.readouterr().err)
    assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out.startswith('["Cleo", "Bob", "Anna"]')
