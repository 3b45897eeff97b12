"""``dlm eval``: one task with one model, sampler, cache and drafter; every answer is kept."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.commands.common import answered_help, flags_as_settings, split_texts
from dlm.configuration import check_switches, compose_config
from dlm.words import counted, visible

if TYPE_CHECKING:
    from dlm.evaluation.runner import Outcome

HELP = """dlm eval: ask the questions of a task, judge the answers, keep everything.

usage: dlm eval [task=NAME] [key=value ...]

  task=waiting_line/copy          a task; dlm tasks lists them. Its options: task.KEY=VALUE
  task.limit=100                  questions; null: all there are. Raised later, only the new ones are asked
  task.form=auto                  chat, text, one_turn or infill; auto: chat when the model has a chat template
  max_new_tokens=null             positions to fill; null: as many as the task's longest answer needs
  seed=0  seeds=null              of the noise; seeds=[0,1,2] asks every question with each
  batch_size=32                   rows decoded together; answers do not depend on it
  out=runs                        results are kept in out/TASK/SAMPLER-HASH
  retries=2                       how often later runs ask a question again that failed
  record=null                     what traces.jsonl keeps (dlm trace shows it): order, confidence, ... or a list
  overwrite=false                 true: throw away what is there and begin again
  tracker=null                    wandb, mlflow, trackio or tensorboard (in the result's folder): told of every point
  json=false                      true: print the figures as JSON

The hash stands for all settings an answer depends on, so every configuration has a folder of its own. In it:
samples.jsonl (a line per answer), failures.jsonl, metrics.json, config.json, manifest.json, traces.jsonl. A run that is
killed at any moment goes on with the same command; a finished one loads nothing. A question that fails (NaN, no memory,
a scorer that raises) is never scored: the exit status is 1 while any is left.

several processes, a GPU each, on machines that share out= (accelerate launch --cpu starts one, whatever it is told):
  accelerate launch --num_processes 4 -m dlm eval task=gsm8k model=llada-8b-instruct
  torchrun --nproc-per-node 2 -m dlm eval task=waiting_line/copy

several configurations (dlm eval -m --help):
  dlm eval -m sampler=threshold,credit sampler.threshold=0.7,0.8,0.9 task=waiting_line/copy,waiting_line/shuffle

groups (GROUP.KEY=VALUE sets what a choice knows; dlm eval --cfg job shows all of it):
{groups}

examples:
  dlm eval task=waiting_line/copy task.limit=50
  dlm eval task=waiting_line/shuffle sampler.threshold=0.7 seeds=[0,1,2] sampler.temperature=1 out=results
  dlm eval task=puzzle/sudoku sampler=topk sampler.tokens_per_step=2 cache=dual blocks.length=16 json=true
  dlm eval task=waiting_line/copy task.form=infill record=[order,confidence]
"""


def run(overrides: list[str]) -> int:
    """Run the command; 1 when a question was left without an answer, else 0."""
    from dlm.commands import sweep

    overrides = flags_as_settings(overrides, "eval", (*sweep.OWN, "launcher", "out"))
    if sweep.asked_for(overrides):
        return sweep.run(overrides)
    texts, overrides = split_texts(overrides, ("out",))
    if answered_help(overrides, HELP, "eval", texts):
        return 0
    from dlm.evaluation.runner import Models, prepare
    from dlm.evaluation.session import run_point
    from dlm.evaluation.shards import group

    config = compose_config("eval", overrides, chosen=True)
    config.merge_with(texts)
    check_switches(config, "json")
    outcome = run_point(prepare(config), Models())
    if group().rank == 0:
        for note in outcome.notes:
            print(f"dlm: {note}", file=sys.stderr)
        if config.json:
            print(json.dumps(as_dict(outcome), ensure_ascii=False))
        else:
            Console(file=sys.stdout).print(card(outcome))
        if outcome.failures:
            print(f"dlm: {_failures(outcome)}", file=sys.stderr)
    return 1 if outcome.failures else 0


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """What ``json=true`` prints: the figures, and what this run did."""
    point = outcome.point
    about = {"task": point.task, "method": point.method, "hash": point.hash, "folder": str(outcome.folder)}
    mine = {"answers": outcome.answers, "decoded": outcome.decoded, "outside_decoding": outcome.outside}
    return {**about, **outcome.figures, **mine}


def card(outcome: Outcome) -> Table:
    """The figures, legible."""
    figures = outcome.figures
    title = f"{outcome.point.task} with {outcome.point.method}"
    table = Table(title=Text(title), title_style="bold", title_justify="left", box=SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, text: str) -> None:
        table.add_row(name, Text(text))

    done = "all were there: nothing was asked" if not outcome.decoded else f"{outcome.decoded} by this run"
    row("answers", f"{outcome.answers} of {outcome.asked} ({done})")
    if figures["n"]:
        # The figures are those of the folder, which may hold more than was asked for now.
        more = f" of all {figures['n']} answers there" if figures["n"] != outcome.answers else ""
        row("accuracy", f"{figures['accuracy']:.1%}{more}, 95 % interval {figures['accuracy_low']:.1%} to"
            f" {figures['accuracy_high']:.1%}")  # fmt: skip
        row("judged by", visible(outcome.metric))
        if figures["accuracy_strict"] is not None:
            row("strict parser", f"{figures['accuracy_strict']:.1%}")
        if figures["errors"]:
            row("errors", visible(", ".join(f"{name} {count}" for name, count in figures["errors"].items())))
        row("forwards", f"{figures['forwards']:.2f} an answer")
        row("tokens per forward", f"{figures['tokens_per_forward']:.2f} until the last token of an answer (filler and"
            f" all forwards counted: {figures['canvas_tokens_per_forward']:.2f})")  # fmt: skip
        row("tokens per second", f"{figures['tokens_per_second']:.0f}")
    if outcome.outside is not None:
        row("outside decoding", f"{outcome.outside:.1%} of its time")
    if outcome.failures:
        row("failures", _failures(outcome))
    row("folder", str(outcome.folder))
    return table


def _failures(outcome: Outcome) -> str:
    """How many questions have no answer, where that is written, and what to do."""
    count = counted(outcome.failures, "question has", "questions have")
    given_up = f" ({outcome.given_up} failed too often: retries=N allows more)" if outcome.given_up else ""
    again = "" if outcome.given_up == outcome.failures else "; the same command asks again"
    return f"{count} no answer, see {outcome.folder}/failures*.jsonl{given_up}{again}"
