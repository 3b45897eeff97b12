"""``dlm tasks``: what can be asked of a model, and how a question is put."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from dlm.building import build, role_of
from dlm.commands.common import asks_help, switch
from dlm.configuration import compose_config, plain_of
from dlm.errors import SettingsError
from dlm.tasks import Instance, Task
from dlm.tasks.checks import checked_instance, checked_task
from dlm.words import counted, meant, visible

HELP = """dlm tasks: the tasks, and what their questions look like.

usage: dlm tasks                     a table of all tasks
       dlm tasks NAME [key=value ...]   one question as a model is asked it, and a right answer

  task=NAME                       the same as NAME
  index=0                         which question, from 0
  task.KEY=VALUE                  an option of the task, as for dlm eval: task.shots=0, task.index_base=0
  json=false                      true: print it as JSON

The names without "parallelbench/" are short forms that the packaged model was trained on; the others are made for large
models. "questions" is how many there are (-: no end), "canvas" how many positions are filled unless max_new_tokens=
says otherwise. Tasks of a ParallelBench checkout that you have: task=upstream task.task=GROUP/TASK task.dir=FOLDER.

examples:
  dlm tasks
  dlm tasks waiting_line/copy
  dlm tasks parallelbench/waiting_line/insert_index index=3 task.shots=0
  dlm tasks task=parallelbench/puzzle/sudoku task.blanks=8 json=true
"""
SLOT = "____"
NOT_OPTIONS = ("_target_", "name", "limit", "form")  # keys of conf/task that the evaluation uses itself


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status. Raises SettingsError: an unknown task, setting or index."""
    if asks_help(overrides):
        print(HELP, end="")
        return 0
    from dlm import tasks

    settings = _settings(overrides)
    as_json = switch(settings, "json")
    settings.pop("json", None)
    text = settings.pop("index", "0")
    if not (text.isascii() and text.isdigit()):
        raise SettingsError(f"index must be a whole number of at least 0, got {text!r}")
    index = int(text)
    if "task" not in settings:
        if settings or any(o.startswith("index=") for o in overrides):
            raise SettingsError("which task? add its name: dlm tasks waiting_line/copy")
        lines = [asdict(tasks.outline(name)) for name in tasks.every()]
        print(json.dumps(lines, indent=1)) if as_json else _print_table(lines)
        return 0
    task = opened([f"{key}={value}" for key, value in settings.items()])
    if task.size is not None and index >= task.size:
        raise SettingsError(
            f"task {task.name} has {counted(task.size, 'question')}: index goes from 0 to {task.size - 1}"
        )
    instance = checked_instance(task, index)
    if as_json:
        print(json.dumps(_described(task, instance, index), indent=1, ensure_ascii=False))
    else:
        sys.stdout.write(_shown(task, instance, index))
    return 0


def _settings(overrides: list[str]) -> dict[str, str]:
    """Settings by key; a word alone is the task's name."""
    settings = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            if override.startswith("-") or "task" in settings:
                raise SettingsError(f"dlm tasks does not know {override!r}; dlm tasks --help says what it takes")
            key, value = "task", override
        if key not in ("task", "index", "json", "debug") and not key.startswith("task."):
            near = meant(key, ("task", "index", "json"))
            raise SettingsError(f"unknown setting {key!r}{near}; dlm tasks knows task, task.KEY, index, json")
        settings[key] = value
    settings.pop("debug", None)
    return settings


def opened(overrides: list[str]) -> Task:
    """The task that a configuration names (``task=NAME``, ``task.KEY=VALUE``), as ``dlm eval`` would open it. Raises
    SettingsError: an unknown task or option, or a value that the task refuses."""
    from dlm import tasks

    node = plain_of(compose_config("eval", overrides))["task"]
    if node.get("_target_") != "dlm.tasks.open":
        named = any(override.startswith("task.name=") for override in overrides)
        left_out = NOT_OPTIONS[2 if named else 1 :]
        return checked_task(build({k: v for k, v in node.items() if k not in left_out}, role_of("task"), "task"))
    return tasks.open(node["name"], **{key: value for key, value in node.items() if key not in NOT_OPTIONS})


def _print_table(lines: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits into a terminal of 80
    table.add_column("task", no_wrap=True)
    table.add_column("ques-\ntions", justify="right")
    table.add_column("canvas", justify="right")
    table.add_column("right is")
    for before, line in zip([lines[0], *lines], lines, strict=False):
        if line["group"] != before["group"]:
            table.add_section()
        shown = ["-" if cell is None else str(cell) for cell in (line["size"], line["canvas"])]
        table.add_row(*(Text(cell) for cell in (line["name"], *shown, line["metric"])))
    console = Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=120)
    console.print(table)
    for line in lines:
        if line["needs"]:
            console.print(Text(f"{line['name']}: {line['needs']}"), soft_wrap=True)
    console.print(Text("upstream/GROUP/TASK: task=upstream task.task=GROUP/TASK task.dir=FOLDER (a checkout you have)"))


def _described(task: Task, instance: Instance, index: int) -> dict[str, Any]:
    template = instance.template
    return {
        "task": task.name,
        "index": index,
        "instance_id": instance.instance_id,
        "size": task.size,
        "canvas": task.canvas,
        "messages": instance.messages,
        "target": instance.target,
        "template": None if template is None else {"pieces": template.pieces, "items": template.items},
        "meta": instance.meta,
        "identity": task.identity,
    }


def _shown(task: Task, instance: Instance, index: int) -> str:
    """The question turn by turn, the right answer, and the answer with open slots where there is one."""
    count = f" of {task.size}" if task.size is not None else ""
    parts = [f"{task.name}, question {index}{count} (from 0), canvas {task.canvas}, id {instance.instance_id}\n"]
    turns = [(message["role"], message["content"]) for message in instance.messages]
    turns.append(("a right answer", instance.target))
    if instance.template is not None:
        turns.append(("to fill in (form=infill)", SLOT.join(instance.template.pieces)))
    parts += [f"\n{who}:\n" + "".join(f"  {line}\n" for line in text.split("\n")) for who, text in turns]
    return visible("".join(parts), keep="\n\t")
