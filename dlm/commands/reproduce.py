"""``dlm reproduce``: recipes run, the published figures beside the measured ones."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from shlex import quote
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.commands.common import asks_help, split_texts, switch
from dlm.errors import SettingsError
from dlm.recipes import Recipe, named
from dlm.words import counted, visible

HELP = """dlm reproduce: published settings run here, published beside measured.

usage: dlm reproduce NAME|PATTERN|all [key=value ...]       (dlm recipes lists them)

  limit=null                      questions of each task; null: all there are
  model=null                      another model for all of them. tiny and tiny-block are packaged: 64 positions of a
                                  recipe's canvas, no worked examples, two short questions a task that come with the
                                  recipes. It shows that every recipe runs; its figures say nothing about a paper's
  data=DIR                        questions from DIR/TASK.jsonl, worked examples from DIR/TASK-train.jsonl
  download=false                  true: fetch models and data that are not at hand; otherwise it is said what to fetch
  out=reproduced                  results are kept there, as dlm eval keeps them; the same command goes on, dlm report
                                  shows them
  dry_run=false                   true: run nothing, and say what it takes on card=
  card=h200                       a100, h100, h200, b200: the time of a dry run is the weights' reading or the
                                  multiplications at its maker's figures, question by question: a lower bound
  json=false                      true: print it as JSON

Everything else goes to every point (batch_size=8, runtime.compile=true, task.path=FILE, ...). "within noise": the 95 %
interval of the difference of the two accuracies (each with its own number of questions) holds 0. Tokens a second are
given as the source counts them, and as dlm does: tokens of the answers over seconds of decoding.

examples:
  dlm reproduce fast-dllm/gsm8k-5shot/dual limit=100
  dlm reproduce all dry_run=true card=a100
  dlm reproduce all limit=2 model=tiny
"""
OWN = ("limit", "model", "data", "download", "out", "dry_run", "card", "json", "debug")


def run(overrides: list[str]) -> int:
    """Run the command; 1 when a point failed, else 0."""
    if asks_help(overrides):
        print(HELP, end="")
        return 0
    texts, rest = split_texts([o for o in overrides if o != "--dry-run"], OWN)
    if "--dry-run" in overrides:
        texts["dry_run"] = "true"
    names = [word for word in rest if "=" not in word]
    if not names or any(name.startswith("-") for name in names):
        raise SettingsError("which recipes? give names or patterns, or all: dlm reproduce fast-dllm limit=10")
    recipes = list({recipe.name: recipe for name in names for recipe in named(name)}.values())
    limit = texts.get("limit", "null")
    if limit != "null" and not (limit.isascii() and limit.isdigit() and int(limit) > 0):
        raise SettingsError(f"limit must be a whole number of at least 1, or null for all, got {limit!r}")
    number = None if limit == "null" else int(limit)
    if switch(texts, "dry_run"):
        return _estimated(recipes, texts, number)
    from dlm.evaluation.reproducing import Order, prepared, verdict
    from dlm.evaluation.reproducing import run as reproduce

    data = Path(texts["data"]).expanduser() if texts.get("data", "null") != "null" else None
    if data is not None and not data.is_dir():
        raise SettingsError(f"data={data} is no folder: give one that holds gsm8k.jsonl and the like")
    model = texts.get("model") if texts.get("model") != "null" else None
    more = tuple(word for word in rest if "=" in word)
    out = texts.get("out", "reproduced")
    lines = reproduce(prepared(recipes, Order(number, model, data, out, switch(texts, "download"), more)))
    records = [_record(line.recipe, line.figures, line.reason, verdict(line, model)) for line in lines]
    if switch(texts, "json"):
        print(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        _print(records, out)
    return int(any(line.ready is not None and line.reason for line in lines))


def _record(recipe: Recipe, figures: dict[str, Any], reason: str, said: str) -> dict[str, Any]:
    measured = {key: figures.get(key) for key in ("questions", "accuracy", "accuracy_low", "accuracy_high", "forwards",
                                                  "tokens_per_second", "as_published")}  # fmt: skip
    published = [{"source": f.source, **f.values} for f in recipe.published]
    return {"recipe": recipe.name, "published": published, **measured, "verdict": said, "not_run": reason}


def _print(records: list[dict[str, Any]], out: str) -> None:
    """The table, and below it what was not run, with the reason."""
    console = Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("recipe", overflow="fold")
    for heading in ("accuracy\npublished", "measured\n(95 %)", "n", "forwards\npublished", "here", "tok/s\npublished",
                    "here, as\npublished", "here, as\ndlm counts"):  # fmt: skip
        table.add_column(heading, justify="right")
    table.add_column("difference")
    for r in records:
        if r["questions"] is not None:
            table.add_row(Text(r["recipe"]), *map(Text, _cells(r)))
    console.print(table)
    for reason, n in Counter(visible(r["not_run"]) for r in records if r["not_run"]).items():
        names = ", ".join(r["recipe"] for r in records if visible(r["not_run"]) == reason)
        print(f"dlm: {counted(n, 'recipe')} not run: {reason}: {names if len(names) < 120 else names[:120] + ' ...'}")
    ran = sum(r["questions"] is not None for r in records)
    print(f"{ran} of {counted(len(records), 'recipe')} run; answers are in {quote(out)} (dlm report {quote(out)})")


def _cells(r: dict[str, Any]) -> list[str]:
    def published(key: str) -> str:
        return next((f"{figures[key]:g}" for figures in r["published"] if key in figures), "-")

    def number(key: str) -> str:
        return "-" if r[key] is None else f"{r[key]:.1f}"

    low, high = 100 * r["accuracy_low"], 100 * r["accuracy_high"]
    measured = f"{100 * r['accuracy']:.1f} ({low:.1f} to {high:.1f})"
    return [published("accuracy"), measured, str(r["questions"]), published("forwards"), number("forwards"),
            published("tokens_per_second"), number("as_published"), number("tokens_per_second"), r["verdict"]]  # fmt: skip


def _estimated(recipes: list[Recipe], texts: dict[str, str], limit: int | None) -> int:
    from dlm.bench.estimate import estimate

    card = texts.get("card", "h200")
    found = [(recipe, estimate(recipe, card, limit)) for recipe in recipes]
    whole = sum(one.seconds for _, one in found)
    if switch(texts, "json"):
        print(json.dumps([{"recipe": recipe.name, **vars(one)} for recipe, one in found], indent=1))
        return 0
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("recipe", overflow="fold")
    for heading in ("questions", "forwards an answer", "positions a forward", f"hours on {card}, at least"):
        table.add_column(heading, justify="right")
    for recipe, one in found:
        bound = "up to " if one.most else ""
        table.add_row(Text(recipe.name), f"{one.questions:,}", f"{bound}{one.forwards:g}", f"{one.positions:.0f}",
                      f"{bound}{one.seconds / 3600:.2f}")  # fmt: skip
    console = Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=120)
    console.print(table)
    print(f"{counted(len(found), 'recipe')}: up to {whole / 3600:,.1f} hours on one {card} at its maker's figures,"
          " question by question (up to: no forwards are published, so as many as there can be)")  # fmt: skip
    return 0
