"""``dlm tune``: the cheapest setting at a stated quality."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.commands.common import command, folder_of
from dlm.configuration import check_switches, compose_config
from dlm.words import counted, visible

if TYPE_CHECKING:
    from dlm.evaluation.tuning.tune import Tuned

HELP = """dlm tune: how fast can it go without losing answers? The cheapest setting, with a certificate.

usage: dlm tune [key=value ...]

  task=waiting_line/copy          a task, or a list: task=[waiting_line/copy,puzzle/sudoku] (the mean over them counts);
                                  questions of your own: task=questions task.path=FILE.jsonl (prompt and answer)
  epsilon=0.02  delta=0.05        with probability 1 - delta the expected score of what is found is at most epsilon
                                  below the reference's
  cost=forwards                   what is to be least: forwards, positions (fed through the body) or seconds
  reference=[sampler=topk,sampler.tokens_per_step=1,cache=none]   what is compared with; this: one token a forward
  tries=40                        settings that the search looks at (Optuna: pip install 'dlm[tune]')
  choose=96  certify=null         questions to choose by, and others to certify with, at most; the fewest that it takes
                                  are said before anything is asked where there are too few
  shortlist=4                     settings that are certified at most, cheapest first
  max_new_tokens=null  seed=0  batch_size=32
  out=tuned                       tuned.yaml (the setting), certificate.json (every setting that was looked at, with its
                                  figures), front.png, the answers and the search
  pictures=true                   false: no picture; it needs matplotlib (pip install 'dlm[plot]')

what is searched (dlm tune --cfg job shows all of it):
  space.samplers=[threshold,eb]   names; fixed settings stand behind a colon: 'space.samplers=["eb:temperature=0.2"]'
  space.blocks=[auto,8,16]  space.caches=[none,dual,prefix]  space.drafting=[none,freedave]
  'space.ranges.threshold.threshold={{low: 0.7, high: 0.95}}'   or a list of values

The search may be as clever as it likes: settings are chosen on some questions and certified on others, one question
after another, by bets against "it loses more than epsilon" that share delta. A setting that the decoder refuses is
looked at and told, no more. A tuning that is killed goes on with the same command, and asks nothing twice. Exit status
1: nothing could be certified.

groups:
{groups}

examples:
  dlm tune task=waiting_line/insert_random epsilon=0.02 delta=0.05 out=tuned
  dlm eval experiment=tuned/tuned task=waiting_line/insert_random
  dlm tune task=gsm8k task.path=hf:openai/gsm8k model=llada-8b-instruct cost=seconds epsilon=0.03 out=tuned-gsm8k
  dlm tune task=waiting_line/copy epsilon=0.1 delta=0.1 choose=24 tries=6 'space.samplers=[threshold,eb]' out=quick
"""
TEXT_KEYS = ("task", "reference", "out")


@command("tune", HELP, TEXT_KEYS)
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; 1 when nothing could be certified, else 0."""
    from dlm.evaluation.tuning.tune import tune

    config = compose_config("tune", [o for o in overrides if o.startswith("pictures=")])
    check_switches(config, "pictures")
    folder_of(texts.get("out", config.out), config.pictures)
    tuned = tune([*overrides, *(f"{key}={text}" for key, text in texts.items())], quiet=False)
    plan, console = tuned.plan, Console(file=sys.stdout)
    console.print(_table(tuned))
    looked = f"{counted(len(tuned.candidates), 'setting')} looked at, {counted(tuned.decoded, 'answer')} by this run"
    console.print(f"{looked}; all of it is in {plan.out}/certificate.json", highlight=False, markup=False)
    if config.pictures:
        from dlm.report.plots_tuning import draw

        draw(tuned, plan.out / "front.png")
    if tuned.chosen is not None:
        said = f"certified: {tuned.chosen.label}, {tuned.chosen.cost / tuned.reference.cost:.2f} of the reference's"
        said += f" {plan.cost}; it is experiment={plan.out}/tuned"
        console.print(said, highlight=False, markup=False)
        return 0
    near = tuned.nearest
    what = "none is cheaper than the reference" if near is None else f"the nearest is {near.label}"
    if near is not None:
        figures = near.figures
        what += f", which loses {figures['loss']:.1%} of {figures['questions']} questions ({_span(figures)})"
    print(
        f"dlm: no setting is certified to lose at most {plan.epsilon:g}: {visible(what)}; allow a larger epsilon or"
        " delta, more questions (certify=) or tries, in a new out=",
        file=sys.stderr,
    )
    return 1


def _span(figures: dict[str, Any]) -> str:
    return f"{100 * figures['low']:.1f} to {100 * figures['high']:.1f}"


def _table(tuned: Tuned) -> Table:
    plan = tuned.plan
    tasks = ", ".join(task[0].partition("=")[2] for task in plan.tasks)
    title = f"{tasks}: at most {plan.epsilon:g} below the reference"
    table = Table(title=Text(visible(title)), title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("setting", overflow="fold")
    for heading in (plan.cost, "score", "lost, %", "(interval)", "n", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in (tuned.reference, *tuned.front):
        figures, ours = one.figures, one is tuned.reference
        lost = "" if ours else f"{100 * figures['loss']:.1f}"
        span = "" if ours else _span(figures)
        status = {"reference": "", "tried": ""}.get(one.status, one.status)
        style = "bold" if one is tuned.chosen else ""
        table.add_row(Text(visible(one.label), style=style), f"{figures['cost']:.2f}", f"{figures['score']:.1%}", lost,
                      span, str(figures["questions"]), status)  # fmt: skip
    return table
