"""``dlm reproduce``: recipes run, the published figures beside the measured ones."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.commands.common import asks_help, folder_of, split_texts, switch
from dlm.errors import SettingsError
from dlm.overrides import known_settings
from dlm.recipes import FIGURES, Recipe, named
from dlm.words import counted, meant, visible

if TYPE_CHECKING:
    from dlm.evaluation.reproducing import Line

HELP = """dlm reproduce: published settings run here, published beside measured.

usage: dlm reproduce NAME|PATTERN|all [key=value ...]       (dlm recipes lists them)

  limit=null                      questions of each task; null: all there are
  model=null                      another model for all of them. tiny and tiny-block are packaged: 32 positions of a
                                  recipe's canvas, no worked examples, two short questions a task that come with the
                                  recipes. It shows that every recipe runs; its figures say nothing about a paper's
  data=DIR                        questions from DIR/TASK.jsonl, worked examples from DIR/TASK-train.jsonl
  download=false                  true: fetch models that are not at hand; otherwise it is said what to fetch
  out=reproduced                  results are kept there, as dlm eval keeps them; the same command goes on, dlm report
                                  shows them
  dry_run=false                   true: run nothing, and say what it takes on card=
  card=h200                       a100, h100, h200, b200: the time of a dry run is the weights' reading or the
                                  multiplications at its maker's figures, question by question: a lower bound
  json=false                      true: print it as JSON

Everything else goes to every point (batch_size=8, runtime.compile=true, task.path=FILE, ...). "within noise": the 95 %
interval of the difference of the two accuracies (each with its own number of questions) holds 0. Tokens a second are
given as the source counts them, and as dlm does: tokens of the answers over seconds of decoding (papers decode one
question at a time: batch_size=1).

examples:
  dlm reproduce fast-dllm/gsm8k-5shot/dual limit=100
  dlm reproduce all dry_run=true card=a100
  dlm reproduce all limit=2 model=tiny
"""
OWN = ("limit", "model", "data", "download", "out", "dry_run", "card", "json", "debug")


def run(overrides: list[str]) -> int:
    """Run the command; 1 when a point failed or none could be run, else 0."""
    if asks_help(overrides):
        print(HELP, end="")
        return 0
    texts, rest = split_texts(["dry_run=true" if o == "--dry-run" else o for o in overrides], OWN)
    texts = {key: text for key, text in texts.items() if text != "null"}
    names = [word for word in rest if "=" not in word]
    if not names or any(name.startswith("-") for name in names):
        raise SettingsError("which recipes? give names or patterns, or all: dlm reproduce fast-dllm limit=10")
    recipes = list({recipe.name: recipe for name in names for recipe in named(name)}.values())
    if not (limit := texts.get("limit", "1")).isdecimal() or not int(limit):
        raise SettingsError(f"limit must be a whole number of at least 1, or null for all, got {limit!r}")
    questions = int(limit) if "limit" in texts else None
    if switch(texts, "dry_run"):
        return _estimated(recipes, texts.get("card", "h200"), questions, switch(texts, "json"))
    from dlm.evaluation.reproducing import Order, reproduced

    data = folder_of(texts.get("data"))
    if data is not None and not data.is_dir():
        raise SettingsError(f"data={data} is no folder: give one that holds gsm8k.jsonl and the like")
    more, out = tuple(word for word in rest if "=" in word), texts.get("out", "reproduced")
    if not out:
        raise SettingsError("out must be a folder, got ''")
    keys = [word.partition("=")[0].lstrip("+~") for word in more]
    if unknown := [key for key in keys if key.partition(".")[0] not in known_settings("eval")]:
        near = meant(unknown[0], [*OWN, *known_settings("eval")])
        raise SettingsError(
            f"unknown setting {unknown[0]!r}{near}: dlm reproduce knows {', '.join(OWN)}, and those of dlm eval"
        )
    order = Order(questions, texts.get("model"), data, out, switch(texts, "download"), more)
    lines = reproduced(recipes, order)
    if switch(texts, "json"):
        print(json.dumps([line.record() for line in lines], indent=1, ensure_ascii=False))
    else:
        _print(lines, out)
    return int(not any(line.figures for line in lines) or any(line.ready and line.reason for line in lines))


def _print(lines: list[Line], out: str) -> None:
    """The table, and below it what was not run, with the reason."""
    rows = []
    for r in (line.record() for line in lines if line.figures):
        interval = f"({100 * r['accuracy_low']:.1f} to {100 * r['accuracy_high']:.1f})"
        given = [next((f"{f[key]:g}" for f in r["published"] if key in f), "-") for key in FIGURES[:4]]
        here = ["-" if r[key] is None else f"{r[key]:.1f}" for key in ("forwards", "as_published", "tokens_per_second")]
        rows.append([r["recipe"], given[0], f"{100 * r['accuracy']:.1f} {interval}", r["questions"], given[3], here[0],
                     given[1], *here[1:], r["difference"]])  # fmt: skip
    _table(("recipe", "accuracy\npublished", "measured\n(95 %)", "n", "forwards\npublished", "here", "tok/s\npublished",
            "here, as\npublished", "here, as\ndlm counts", "difference"), rows)  # fmt: skip
    for reason, n in Counter(visible(line.reason) for line in lines if line.reason).items():
        names = ", ".join(line.recipe.name for line in lines if visible(line.reason) == reason)
        print(f"dlm: {counted(n, 'recipe')} not run: {reason}: {names if len(names) < 120 else names[:120] + ' ...'}")
    where = f"; answers are in {quote(out)} (dlm report {quote(out)})" if rows else ""
    print(f"{len(rows)} of {counted(len(lines), 'recipe')} run{where}")


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    (Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)).print(table)


def _estimated(recipes: list[Recipe], card: str, limit: int | None, as_json: bool) -> int:
    from dlm.bench.estimate import estimate

    found = [(recipe, estimate(recipe, card, limit)) for recipe in recipes]
    if as_json:
        print(json.dumps([{"recipe": recipe.name, **vars(one)} for recipe, one in found], indent=1))
        return 0
    rows = [(recipe.name, f"{one.questions:,}", f"{'up to ' * one.most}{one.forwards:g}", f"{one.positions:.0f}",
             f"{'up to ' * one.most}{one.seconds / 3600:.2f}") for recipe, one in found]  # fmt: skip
    _table(("recipe", "questions", "forwards an answer", "positions a forward", f"hours on one {card}"), rows)
    hours = sum(one.seconds for _, one in found) / 3600
    print(f"{counted(len(found), 'recipe')}: up to {hours:,.1f} hours on one {card} at its maker's figures, question by"
          " question. up to: its forwards are not published, so as many as there can be are counted")  # fmt: skip
    return 0
