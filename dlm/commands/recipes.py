"""``dlm recipes``: published settings by name, and all that is known of them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from shlex import join

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.commands.common import asks_help, split_texts, switch
from dlm.errors import SettingsError
from dlm.recipes import Figure, Recipe, named
from dlm.words import counted, visible

HELP = """dlm recipes: published settings by name, with their figures and where they stand.

usage: dlm recipes                   all of them
       dlm recipes PATTERN           those of a paper or a pattern: fast-dllm, 'fast-dllm/*/dual', '*/gsm8k-5shot/*'
       dlm recipes NAME              everything about one, and the command line of dlm eval it stands for

  json=false                      true: print them as JSON

recipe=NAME in dlm eval and dlm generate is what a recipe sets; what stands beside it wins. dlm reproduce runs recipes
and prints the published figures beside the measured ones. docs/recipes.md: where they come from, and how to add some.

examples:
  dlm recipes fast-dllm
  dlm recipes fast-dllm/gsm8k-5shot/dual
  dlm generate recipe=fast-dllm/gsm8k-5shot/dual model=tiny max_new_tokens=32 'prompt=47+85='
"""
SIGNS = {"accuracy": "%", "tokens_per_second": " tok/s", "speedup": "x", "forwards": " fwd", "seconds": " s"}


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status. Raises SettingsError: no such recipe, an unknown setting."""
    if asks_help(overrides):
        print(HELP, end="")
        return 0
    texts, words = split_texts(overrides, ("json", "debug"))
    if wrong := [word for word in words if "=" in word or word.startswith("-")] or words[1:]:
        raise SettingsError(f"dlm recipes does not know {wrong[0]!r}: give one PATTERN, and json=true")
    found = named(words[0] if words else "all")
    if switch(texts, "json"):
        print(json.dumps([{**asdict(r), "command": command_of(r)} for r in found], indent=1, ensure_ascii=False))
    elif len(found) == 1:
        print(visible(described(found[0]), keep="\n"), end="")
    else:
        _print_table(found)
    return 0


def command_of(recipe: Recipe) -> str:
    """The command line of ``dlm eval`` that a recipe stands for."""
    return join(["dlm", "eval", *recipe.overrides(), "task.limit=null"])


def shown(figure: Figure) -> str:
    """A source's figures in one cell: ``78.5%, 54.4 tok/s, 8.1x``."""
    return ", ".join(f"{value:g}{SIGNS[name]}" for name, value in figure.values.items())


def decoding(recipe: Recipe) -> str:
    """How a recipe decodes, in one cell: ``256 positions, blocks 32, threshold 0.9, dual``."""
    about = dict(recipe.settings)
    words = [f"{about.pop('max_new_tokens')} positions"]
    if length := about.pop("blocks.length", None):
        words.append(f"blocks {length}")
    for group in ("sampler", "cache", "drafting"):
        own = {k: about.pop(k) for k in list(about) if k.startswith(f"{group}.")}
        inside = " ".join(f"{k.partition('.')[2]}={v}" for k, v in own.items())
        if (name := about.get(group, "none")) != "none":
            words.append(f"{name} ({inside})" if inside else name)
    return ", ".join(words)


def described(recipe: Recipe) -> str:
    """Everything about a recipe."""
    lines = [recipe.name, "", f"  {recipe.about}", f"  model       {recipe.model}"]
    lines += [f"  task        {recipe.task}, {recipe.settings.get('task.shots', 0)} worked examples"]
    lines += [f"  decoding    {decoding(recipe)}"]
    lines += [f"  {key:<11} {text}" for key, text in recipe.texts.items()]
    for figure in recipe.published:
        lines.append(f"  published   {shown(figure)} ({figure.source})")
    if not recipe.published:
        lines.append("  published   no figure that could be read")
    for key in ("unclear", "contradicts", "differs"):
        lines += [f"  {key:<11} {text}" for text in getattr(recipe, key)]
    return "\n".join([*lines, "", f"  {command_of(recipe)}", ""])


def _print_table(recipes: list[Recipe]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("recipe", "model", "task", "settings", "published"):
        table.add_column(heading, overflow="fold")
    for recipe in recipes:
        published = "; ".join(shown(figure) for figure in recipe.published) or "-"
        cells = (recipe.name, recipe.model, recipe.task, decoding(recipe), published)
        table.add_row(*(Text(visible(cell)) for cell in cells))
    console = Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)
    console.print(table)
    console.print(f"{counted(len(recipes), 'recipe')}; dlm recipes NAME says everything of one", highlight=False)
