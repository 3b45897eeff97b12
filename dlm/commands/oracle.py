"""``dlm oracle``: decoding with exact marginals beside the formulas for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dlm.choices import chosen, labels, listed
from dlm.commands.common import answered_help, flags_as_settings, folder_of, split_texts
from dlm.configuration import check_counts, check_switches, compose_config, part_of
from dlm.errors import SettingsError
from dlm.evaluation.progress import progress_bar
from dlm.exact_model.ways import DRAWN
from dlm.files import write_csv, write_json
from dlm.overrides import GROUPS
from dlm.words import counted

if TYPE_CHECKING:
    from dlm.engine.sampler import Sampler
    from dlm.exact_model.cells import Cell
    from dlm.exact_model.check import Checked

HELP = """dlm oracle: decoding with exact marginals beside the formulas for it.

usage: dlm oracle [key=value ...]
       dlm oracle controls [samplers=all] [rollouts=1000] [seed=0] [batch_size=250] [json=true] [out=DIR]

  task=all                        or some of: {tasks}
  n=[3,4,5,6]                     items of the given list: one number, or a list
  rollouts=1000                   how often each cell is decoded; 200 at most where the accuracy must be 0 or 1
  seed=0  batch_size=250
  json=true                       the table as JSON on stdout
  out=DIR                         write oracle.csv, oracle.json and closed_forms.csv (accuracy by tokens a step): in a
                                  folder of results `dlm report` draws them over what a model reached in infill form

The model is one that knows the right answers and gives their exact marginals. Its accuracy under a sampler is then a
matter of arithmetic, and the decode loop, the sampler and the scorer together must arrive at that number: within four
standard deviations and one rollout, exactly where it is 0 or 1. Where forwards are settled too they must agree as well.
The exit status is 1 when a cell does not.

"drawn": tokens are drawn from the marginals; "best": the most probable one, equal ones told apart at random; "lowest
id": equal ones not told apart. "all orders": the given order counts as an answer, which the task's scorer refuses.

controls: every sampler, tokens drawn at temperature 1, on six small laws that show what a rule does not see: names of
two tokens, lists of such names, parity, orders of four tokens, one token four times, independent bits. A cell is the
share of outputs that the law contains, in %, and the mean forwards. "apart": the largest total variation between
outputs and law. Last line: all tokens drawn at once; and how far apart exact draws are. JSON and the files of out=DIR
(controls.csv, controls.json) have it for every law.

examples:
  dlm oracle controls 'samplers=[eb,threshold,overlap]'
  dlm oracle task=shuffle n=4
  dlm oracle 'task=[insert_random,remove_random]' 'n=[3,4]' rollouts=20000
  dlm oracle rollouts=20000 out=oracle
"""
TEXT_KEYS = ("task", "out", "samplers")
ALL_AT_ONCE = "random:steps=1"
# Beside the presets, where all samplers are asked for.
FURTHER = ("eb:gamma=0.5", ALL_AT_ONCE)


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status: 1 when a cell is not what it must be."""
    from dlm.exact_model.cells import TASKS

    texts, overrides = split_texts(flags_as_settings(overrides, "oracle", TEXT_KEYS), TEXT_KEYS)
    if answered_help(overrides, HELP.replace("{tasks}", ", ".join(TASKS)), "oracle", texts):
        return 0
    if overrides[:1] == ["controls"]:
        return _controls(texts, overrides[1:])
    config, planned = _prepare(texts, overrides)
    out = folder_of(texts.get("out"))
    checked = list(_checked(with_samplers(planned), config.rollouts, config.seed, config.batch_size))
    if out is not None:
        _write(checked, out)
    if config.json:
        print(json.dumps([one.record for one in checked], indent=1))
    else:
        console = Console(file=sys.stdout)
        console.print(_table(checked))
        console.print(Text(_summary(checked)), soft_wrap=True)
    return 0 if all(one.ok for one in checked) else 1


def _controls(texts: dict[str, str], overrides: list[str]) -> int:
    """Samplers on laws that show where they break; the exit status."""
    from dlm.exact_model.controls import CONTROLS, hold

    if "task" in texts or any(o.startswith("n=") for o in overrides):
        raise SettingsError("controls have laws of their own: leave task and n out")
    config = _counted(overrides)
    asked, out = texts.get("samplers", "all"), folder_of(texts.get("out"))
    names = labels("sampler", asked, leave_out=("parts",)) + list(FURTHER if listed(asked) == ["all"] else ())
    records: list[dict[str, Any]] = []
    refused = {}
    with progress_bar() as bar:
        progress = bar.add_task("", total=len(names) * len(CONTROLS))
        for name in names:
            try:
                config_of = compose_config("oracle", ["blocks=auto", *chosen("sampler", name), DRAWN])
                sampler = part_of(config_of, "sampler")
                for control in CONTROLS:
                    bar.update(progress, description=escape(f"{name} {control.name}"))
                    outcome = hold(control, sampler, config.rollouts, config.seed, config.batch_size)
                    records.append({"sampler": name, "control": control.name, **asdict(outcome)})
                    bar.advance(progress)
            except SettingsError as error:
                refused[name] = str(error).strip().splitlines()[0]
    if not records:
        raise SettingsError(f"no sampler goes with the oracle: {'; '.join(refused.values())}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "controls.csv", list(records[0]), records)
        write_json(out / "controls.json", {"records": records, "refused": refused})
    if config.json:
        print(json.dumps({"records": records, "refused": refused}, indent=1))
    else:
        _show_controls(records, refused, config.rollouts)
    return 0


def _show_controls(records: list[dict[str, Any]], refused: dict[str, str], rollouts: int) -> None:
    """The table, and who is not in it."""
    from dlm.exact_model.controls import CONTROLS, unavoidable

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("sampler", overflow="fold")
    for control in CONTROLS:
        table.add_column(control.name, justify="right", no_wrap=True)
    table.add_column("apart", justify="right", no_wrap=True)
    found = {(r["sampler"], r["control"]): r for r in records}
    for name in dict.fromkeys(r["sampler"] for r in records):
        cells = [found.get((name, control.name)) for control in CONTROLS]
        told = [f"{_share(c['accuracy'])}/{c['forwards']:.1f}" if c else "" for c in cells]
        table.add_row(escape(name), *told, f"{max(c['distance'] for c in cells if c):.2f}")
    table.add_section()
    apart = max(unavoidable(control, rollouts) for control in CONTROLS)
    table.add_row("at once", *(f"{_share(control.at_once)}/1" for control in CONTROLS), f"{apart:.2f}")
    console = Console(file=sys.stdout)
    console.print(table)
    for name, reason in refused.items():
        console.print(Text(f"left out: {name}: {reason}"), soft_wrap=True)


def _share(accuracy: float) -> str:
    return f"{100 * accuracy:.3g}" if accuracy < 0.9995 else "100"


def _counted(overrides: list[str]) -> Any:
    """The configuration, its numbers checked."""
    keys = [o.partition("=")[0].lstrip("+~").partition(".")[0] for o in overrides]
    if group := next((key for key in keys if key in GROUPS), None):
        raise SettingsError(f"oracle brings its own model and a sampler for each cell: leave {group} out")
    config = compose_config("oracle", overrides)
    check_counts(config, "rollouts", "batch_size")
    check_counts(config, "seed", least=None)
    check_switches(config, "json")
    return config


def _prepare(texts: dict[str, str], overrides: list[str]) -> tuple[Any, list[Cell]]:
    """The configuration, checked, and what is decoded."""
    from omegaconf import OmegaConf

    from dlm.exact_model.cells import TASKS, cells

    if "samplers" in texts:
        raise SettingsError("samplers= is for dlm oracle controls: here every cell has its own")
    config = _counted(overrides)
    names = listed(texts.get("task", str(config.task)))
    if not names:
        raise SettingsError(f"task names none: all, or some of {', '.join(TASKS)}")
    lengths: list[Any] = list(config.n) if OmegaConf.is_list(config.n) else [config.n]
    return config, cells(TASKS if names == ["all"] else names, lengths)


def with_samplers(found: Sequence[Cell]) -> list[tuple[Cell, Sampler]]:
    """Each cell with its sampler, made by Hydra as for any other command."""
    from omegaconf import OmegaConf

    samplers: dict[tuple[str, ...], Sampler] = {}
    for cell in found:
        if cell.overrides not in samplers:
            groups = tuple(o for o in cell.overrides if "." not in o.partition("=")[0])
            settings = OmegaConf.from_dotlist([o for o in cell.overrides if o not in groups])
            config = OmegaConf.merge(_composed(groups), settings)
            samplers[cell.overrides] = part_of(config, "sampler")
    return [(cell, samplers[cell.overrides]) for cell in found]


@cache
def _composed(groups: tuple[str, ...]) -> Any:
    """The configuration with these group choices. A few of them serve hundreds of cells."""
    return compose_config("oracle", groups)


def _checked(planned: list[tuple[Cell, Sampler]], *how: int) -> Iterator[Checked]:
    """Decode cell after cell."""
    from dlm.exact_model.check import check

    with progress_bar() as bar:
        progress = bar.add_task("", total=len(planned))
        for cell, sampler in planned:
            bar.update(progress, description=escape(f"{cell.group.task} n={cell.group.n} {cell.way}"))
            yield check(cell, sampler, *how)
            bar.advance(progress)


def _table(checked: list[Checked]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("task", "n", "decoding"):
        table.add_column(heading, overflow="fold")
    for heading in ("exact", "", "measured", "within", "forwards", "ok"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = ("", 0)
    for one in checked:
        cell, group = one.cell, one.cell.group
        name = f"{group.task}, {group.law}" if group.law else group.task
        if last not in (("", 0), (name, group.n)):
            table.add_section()
        last = (name, group.n)
        fraction = str(cell.accuracy) if len(str(cell.accuracy)) <= 9 else ""
        table.add_row(
            name, str(group.n), cell.way, fraction, f"{float(cell.accuracy):.6f}", f"{one.measured:.6f}",
            f"{one.tolerance:.4f}" if one.tolerance else "exactly", ",".join(map(str, one.forwards)),
            Text("ok", style="green") if one.ok else Text("WRONG", style="bold red"),
        )  # fmt: skip
    return table


def _summary(checked: list[Checked]) -> str:
    wrong = sum(not one.ok for one in checked)
    count = counted(len(checked), "cell")
    rows, seconds = sum(one.rollouts for one in checked), sum(one.seconds for one in checked)
    told = "all agree" if not wrong else f"{wrong} WRONG"
    return f"{count}, {told}; {rows} outputs decoded in {seconds:.1f} s"


def _write(checked: list[Checked], folder: Path) -> None:
    """All files, each whole."""
    from dlm.exact_model.curves import curves

    folder.mkdir(parents=True, exist_ok=True)
    records = [one.record for one in checked]
    lines = [{**record, "forwards": " ".join(map(str, record["forwards"]))} for record in records]
    write_csv(folder / "oracle.csv", list(lines[0]), lines)
    write_json(folder / "oracle.json", records)
    if points := curves(one.cell.group.task for one in checked):
        write_csv(folder / "closed_forms.csv", [f.name for f in fields(points[0])], map(asdict, points))
