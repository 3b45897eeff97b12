"""The commands of docs/evaluation.md, of README.md and of the helps are read by the commands that they name."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dlm.cli import COMMANDS
from dlm.cli import HELP as OVERVIEW
from dlm.commands import eval as single
from dlm.commands import report, sweep, tasks, trace
from dlm.configuration import compose_config
from dlm.evaluation import workers
from dlm.evaluation.grid import expand, overrides_of
from dlm.evaluation.sample import Sample

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "docs" / "command_line.md").read_text(
    encoding="utf-8"
)
BEHIND = re.compile(r"^(?:.* -m )?dlm (?=\w)")  # `torchrun ... -m dlm eval` too


def lines_of(text: str) -> list[str]:
    """The lines of shell in a text, comments taken away, continued ones put together."""
    return [line.split(" # ")[0].strip() for line in text.replace("\\\n", " ").splitlines()]


def written() -> list[list[str]]:
    """What follows ``dlm`` in every example, each once."""
    blocks = [block for text in (TEXT, README) for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)]
    helps = [
        OVERVIEW,
        single.HELP,
        sweep.HELP.replace("{{", "{").replace("}}", "}"),
        report.HELP,
        tasks.HELP,
        trace.HELP,
    ]
    examples = [text.partition("examples:")[2].partition("\n\n")[0] for text in helps]
    found = [line for text in blocks + examples for line in lines_of(text) if BEHIND.match(line)]
    return [shlex.split(BEHIND.sub("", line)) for line in dict.fromkeys(found)]


def wanted(*commands: str) -> list[list[str]]:
    return [words for words in written() if words[0] in commands and "--help" not in words]


def test_every_command_that_is_named_exists() -> None:
    assert {words[0] for words in written()} - {"--help"} <= COMMANDS.keys()
    assert len(wanted("eval")) > 12


@pytest.mark.parametrize("words", wanted("eval"), ids=" ".join)
def test_the_settings_of_an_evaluation_compose(words: list[str]) -> None:
    overrides = words[1:]
    if not sweep.asked_for(overrides):
        assert compose_config("eval", overrides, chosen=True).choices.task
        return
    order = sweep._order(overrides)
    workers.check_launcher(order.launcher)
    for choice in (order.choices[0], order.choices[-1]):
        assert compose_config("eval", overrides_of(choice), chosen=True).choices.task


@pytest.mark.parametrize("words", wanted("tasks"), ids=" ".join)
def test_the_tasks_that_are_shown_exist(words: list[str]) -> None:
    named = [word for word in words[1:] if word.isupper()]
    assert named or tasks.run(words[1:]) == 0


@pytest.mark.parametrize("words", wanted("report", "trace"), ids=" ".join)
def test_the_settings_of_reports_and_traces_compose(words: list[str]) -> None:
    settings = [word for word in words[1:] if re.match(r"\w+=", word) and not word.startswith(("pair=", "dir="))]
    own = {"index", "step", "speed", "limit", "out"} if words[0] == "trace" else set(compose_config("report", []))
    assert {word.partition("=")[0] for word in settings} <= own
    assert words[0] == "report" or words[1] in trace.ACTIONS


def test_the_launchers_of_the_table_are_known() -> None:
    rows = [line for line in TEXT.splitlines() if re.match(r"\| \w+, ", line)]
    given = [re.findall(r"`([^`]*workers=[^`]*)`", row)[0].split() for row in rows]
    assert len(given) == 2
    for words in given:
        workers.check_launcher(sweep._order(["-m", *words]).launcher)


def test_the_grid_of_the_document_is_one() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    found = expand(yaml.safe_load(text))
    assert len(found) == 2 * (11 + 2)  # 11 of 12 steps divide their block, and two pairs
    for choice in found:
        assert compose_config("eval", overrides_of(choice), chosen=True).sampler


def test_what_a_line_is_said_to_hold_is_there() -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith("| `samples.jsonl`"))
    named = set(re.findall(r"(?<!\[)`(\w+)`", row.partition("|")[2].partition("|")[2]))
    assert len(named) > 10
    assert named <= {field.name for field in fields(Sample)}
