"""``dlm compare``: samplers side by side on the same held-out questions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dlm.choices import chosen, labels, listed
from dlm.commands.common import command, folder_of
from dlm.configuration import Composer, check_counts, check_switches, compose_config, plain_of
from dlm.errors import SettingsError
from dlm.evaluation.progress import progress_bar
from dlm.files import write_csv, write_json
from dlm.overrides import quoted
from dlm.words import counted, visible

if TYPE_CHECKING:
    from dlm.evaluation.runner import Models, Ready
    from dlm.report.comparison import Line, Refused

    # Per task, and there per label, the point in a temporary store, or why its settings were refused.
    Points = dict[str, dict[str, Ready | str]]

HELP = """dlm compare: samplers side by side on the same held-out questions.

usage: dlm compare [key=value ...]

  task=waiting_line/copy          a task, or a list: task=[waiting_line/copy,puzzle/sudoku]
  samplers=all                    every choice below but parts, or a list; a sampler's own settings follow a colon:
                                  'samplers=[threshold,threshold:threshold=0.7,topk:tokens_per_step=4]'
  caches=null                     every sampler with each of these caches, written like samplers: all, or a list:
                                  'caches=[none,dual,dkv_decode:interval=4]'; null: the one that cache= names
  n=50                            questions per task, the same for all samplers
  max_new_tokens=null             positions to fill; null: as many as the task's longest answer needs
  seed=0  batch_size=32
  out=DIR                         write compare.csv (after every sampler), compare.json and a picture per task
  pictures=true                   false: no pictures; they need matplotlib (pip install 'dlm[plot]')

Everything else (model=, blocks=, cache=, sampler.temperature=, ...) is the same for all samplers. One that refuses its
settings is listed below the table. The best come first: by accuracy (with its 95 % interval), then by tokens per
forward. "overhead" is the time outside the forward per forward of a question; rows of a batch share it.

groups:
{groups}

examples:
  dlm compare task=waiting_line/copy 'samplers=[threshold,topk,factor]' n=20
  dlm compare 'task=[waiting_line/copy,waiting_line/shuffle]' samplers=all n=100 out=comparison
  dlm compare 'samplers=[threshold,threshold:threshold=0.7,topk:tokens_per_step=4]' blocks.length=16
  dlm compare task=waiting_line/shuffle 'samplers=[topk,threshold]' caches=all n=100 blocks.length=8
  dlm compare model=llada-8b-instruct task=math/addition batch_size=8 out=comparison
"""
TEXT_KEYS = ("task", "samplers", "caches", "out")
OWN = ("n", "pictures")  # what `dlm eval` has other words for


@command("compare", HELP, TEXT_KEYS)
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    with TemporaryDirectory(prefix="dlm-compare-") as store:
        points, models, report = _prepare(texts, overrides, store)
        try:
            _measure_all(points, models, report)
        except BaseException:
            report.rescue()
            raise
    if not report.lines:
        raise SettingsError("no sampler could be run; the reasons are above")
    return 0


def _prepare(texts: dict[str, str], overrides: list[str], store: str) -> tuple[Points, Models, _Report]:
    """Check and build everything, then load the model."""
    from dlm.evaluation.runner import Models, prepare

    if any(o.partition("=")[0].lstrip("+~") == "sampler" for o in overrides):
        raise SettingsError("compare takes several samplers: samplers=[NAME,...] instead of sampler=NAME")
    # Settings of a sampler are no part of what all samplers share: not every one knows them.
    common = [o for o in overrides if not o.startswith("sampler.")]
    config = compose_config("compare", common)
    check_counts(config, "n", "batch_size", *(["max_new_tokens"] if config.max_new_tokens is not None else []))
    check_switches(config, "pictures")
    names = labels("sampler", texts.get("samplers", config.samplers), leave_out=("parts",))
    caches = labels("cache", texts["caches"]) if texts.get("caches", "null") != "null" else [""]
    asked = listed(texts.get("task", str(config.task)))
    if not asked:
        raise SettingsError("task names none: give at least one, for example task=waiting_line/copy")
    out = folder_of(texts.get("out"), config.pictures)
    composer = Composer("eval")

    def ready(task: str, settings: Sequence[str], own: Sequence[str] = ()) -> Ready:
        kept = [o for o in settings if o.partition("=")[0] not in OWN]
        questions = [f"task={task}", f"task.limit={config.n}", "task.form=chat", f"out={quoted(store)}"]
        return prepare(composer([*kept, *own, *questions]))

    def point(task: str, label: str, cache: str) -> Ready | str:
        try:
            return ready(task, overrides, chosen("sampler", label) + (chosen("cache", cache) if cache else []))
        except SettingsError as error:
            return str(error).strip().splitlines()[0]

    shared, models = [ready(task, common) for task in asked], Models()
    ways = [(label, cache) for label in names for cache in caches]
    points = {
        task: {f"{label} + {cache}" if cache else label: point(task, label, cache) for label, cache in ways}
        for task in asked
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    device = str(models.get(shared[0].parts).device)
    lists = {"task": asked, "samplers": names, "caches": [cache for cache in caches if cache]}
    rest = {k: v for k, v in plain_of(config).items() if k not in ("sampler", *TEXT_KEYS, "debug", "hydra")}
    record = {**lists, **rest, "overrides": overrides, "device": device}
    return points, models, _Report(out, config.pictures, record)


def _measure_all(tasks: Points, models: Models, report: _Report) -> None:
    """Every sampler on every task; the report takes each result in as it comes."""
    from dlm.report.comparison import Refused, measure, warm_up

    with progress_bar() as bar:
        cell = bar.add_task("", total=sum(map(len, tasks.values())))
        warm = False
        for task, points in tasks.items():
            for label, ready in points.items():
                bar.update(cell, description=escape(f"{task} {label}"))
                try:
                    if isinstance(ready, str):
                        raise SettingsError(ready)
                    if not warm:
                        warm_up(ready, models)
                        warm = True
                    report.take(measure(ready, label, models))
                except SettingsError as error:
                    report.refuse(Refused(task, label, str(error)))
                bar.advance(cell)
            report.finish(task)


class _Report:
    """What has been measured so far: tables on the console, files in the folder ``out`` if there is one, among them
    ``pictures`` if so, and all settings as plain values (``record``) in ``compare.json``."""

    def __init__(self, out: Path | None, pictures: bool, record: dict[str, Any]) -> None:
        self.out, self.pictures, self.record, self.console = out, pictures, record, Console(file=sys.stdout)
        self.lines: list[Line] = []
        self.refused: list[Refused] = []
        self.shown: set[str] = set()

    def take(self, line: Line) -> None:
        """Keep a line, on disk too: a run that is interrupted loses nothing it has measured."""
        self.lines.append(line)
        self._write()

    def refuse(self, refused: Refused) -> None:
        """Keep what was refused."""
        self.refused.append(refused)
        self._write()

    def finish(self, task: str) -> None:
        """Print the table of a task and draw its picture."""
        self.shown.add(task)
        lines = self._print([line for line in self.lines if line.task == task])
        for refused in (r for r in self.refused if r.task == task):
            self.console.print(Text(f"refused: {refused.sampler}: {refused.reason}"), soft_wrap=True)
        if lines and self.out is not None and self.pictures:
            from dlm.report.plots_points import draw

            draw(lines, self.out / f"{task.replace('/', '-')}.png")

    def rescue(self) -> None:
        """After an error or an interrupt: show the lines of a task that was not finished."""
        self._print([line for line in self.lines if line.task not in self.shown])
        if self.lines and self.out is not None:
            count = counted(len(self.lines), "line was", "lines were")
            print(f"dlm: {count} measured; see {self.out}/compare.csv", file=sys.stderr)

    def _print(self, lines: Sequence[Line]) -> list[Line]:
        from dlm.report.comparison import ranked

        best = ranked(lines)
        if best:
            self.console.print(_table(best))
        return best

    def _write(self) -> None:
        if self.out is None:
            return
        from dlm import __version__
        from dlm.report.comparison import Line

        lines = [asdict(line) for line in self.lines]
        write_csv(self.out / "compare.csv", [f.name for f in fields(Line)], lines)
        refused = [asdict(refused) for refused in self.refused]
        record = {"dlm": __version__, "settings": self.record, "lines": lines, "refused": refused}
        write_json(self.out / "compare.json", record)


def _table(lines: Sequence[Line]) -> Table:
    first = lines[0]
    title = f"{first.task}: {counted(first.n, 'held-out question')}, {counted(first.max_new_tokens, 'position')} each"
    # Eight columns fit into a terminal of 80 when nothing is spent on padding.
    table = Table(title=Text(visible(title)), title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("sampler", overflow="fold", min_width=12)
    for heading in (
        "accuracy\n(95 %)", "for-\nwards", "tokens\nper\nforward", "canvas\nper\nforward",
        "token-\nforwards", "overhead\nms per\nstep", "outside\nthe\nforward",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        share = Text(f"{line.accuracy:.0%}")
        share.append(f" {100 * line.accuracy_low:.0f}-{100 * line.accuracy_high:.0f}", style="dim")
        table.add_row(
            Text(visible(line.sampler)), share, f"{line.forwards:.1f}", f"{line.tokens_per_forward:.2f}",
            f"{line.canvas_tokens_per_forward:.2f}", f"{line.token_forwards:.0f}",
            f"{line.overhead_ms_per_step:.2f}", f"{line.outside_share:.0%}",
        )  # fmt: skip
    return table
