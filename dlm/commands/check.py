"""``dlm check``: a part of anybody's against the laws of the house."""

from __future__ import annotations

import json

import yaml

from dlm.building import build
from dlm.commands.common import asks_help, split_texts, switch
from dlm.errors import SettingsError
from dlm.words import counted, visible

HELP = """dlm check: holds a sampler, a part of one, a cache or a task against what every such part keeps to.

usage: dlm check MODULE.NAME [setting=value ...]
       dlm check sampler|cache|task=NAME

  MODULE.NAME              a class that extends a role of dlm.engine.interfaces, or a function that says '-> Sampler';
                           PYTHONPATH says where it is
  setting=value            its settings
  sampler|cache|task=NAME  a choice of that group, --config-dir DIR being searched as well
  model=tiny               packaged model, folder or hub id it is tried on, in float64
  json=false               true: a line of JSON for each law

A sampler or a part of one (tried inside topk or threshold) is decoded alone and in batches, at temperature 0 and 0.8,
over every cache, and with drafts; a cache with several samplers; a task is asked, answered rightly and with nonsense.
"refused" is no fault: the part says itself what it is not for. The exit status is 1 if a law is broken.

examples:
  dlm check sampler=klass
  dlm check my_package.MySampler threshold=0.7
  dlm check my_package.MyTask
  dlm check task=waiting_line/copy
"""
_COLOURS = {"holds": "green", "broken": "bold red", "refused": "dim"}


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    if asks_help(overrides) or not overrides:
        print(HELP, end="")
        return 0
    texts, rest = split_texts(overrides, ("model", "json"))
    as_json = switch(texts, "json")
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dlm import conformance
    from dlm.models import load

    part, name = _asked(rest)
    model = load(texts.get("model", "tiny"), dtype="float64", device="cpu")
    heads, title = ("law", "", "tried, or what went wrong"), Text(visible(name))
    table = Table(*heads, box=SIMPLE_HEAD, title=title, title_justify="left")
    broken = 0
    with Console(stderr=True).status("checking"):
        for found in conformance.check(part, model):
            broken += found.verdict == "broken"
            if as_json:
                print(json.dumps(found._asdict()), flush=True)
            colour = _COLOURS[found.verdict]
            told = (Text(found.law), Text(found.verdict, style=colour), Text(visible(found.told)))
            table.add_row(*told)
    if not as_json:
        Console(width=None).print(table)
        print("every law holds" if not broken else f"{counted(broken, 'law')} broken")
    return int(broken > 0)


def _asked(words: list[str]) -> tuple[object, str]:
    """The part that a command line names, and what it is called. Raises SettingsError: none."""
    if not words:
        raise SettingsError("what is to be checked? dlm check MODULE.NAME, or sampler=NAME, cache=NAME, task=NAME")
    first, *rest = words
    group, equals, name = first.partition("=")
    if equals and group in ("sampler", "cache"):
        from dlm.configuration import compose

        return getattr(compose([first, *rest]), group), name
    if equals and group == "task":
        from dlm.tasks.registry import open_task

        if rest:
            raise SettingsError("a task that is named is checked as it is: leave its settings out, or give MODULE.NAME")
        return open_task(name), name
    settings = {}
    for word in rest:
        key, said, value = word.partition("=")
        if not said or not key.isidentifier():
            raise SettingsError(f"{word} is no setting of {first}: write key=value")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"{word} cannot be read: quote the value, {key}='\"...\"'") from error
    from dlm.engine.interfaces import Cache, Part, Speculator
    from dlm.engine.sampler import Sampler
    from dlm.tasks.base import Task

    return build({"_target_": first, **settings}, (Sampler, Cache, Part, Speculator, Task), "part"), first
