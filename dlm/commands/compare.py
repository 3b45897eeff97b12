"""``dlm compare``: samplers side by side on the same held-out questions."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dlm.commands.common import answered_help, split_texts, yaml_of
from dlm.configuration import build, choices, compose_config, parts_of
from dlm.errors import SettingsError
from dlm.files import write_whole

if TYPE_CHECKING:
    from dlm.engine.interfaces import Cache
    from dlm.engine.sampler import Sampler
    from dlm.evaluation.compare import Decoding, Line, Questions, Refused

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


class Way(NamedTuple):
    """A sampler with a cache."""

    sampler: Sampler
    cache: Cache | None


@dataclass(frozen=True)
class Plan:
    """What is asked for, checked and built, before a model is loaded.

    Attributes:
        questions: per task.
        ways: per label a sampler and its cache, or the reason why their settings were refused.
        out: where files go; None for none.
        pictures: whether pictures are among them.
        record: all settings as plain values, for ``compare.json``.
    """

    questions: list[Questions]
    ways: dict[str, Way | str]
    out: Path | None
    pictures: bool
    record: dict[str, Any]


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    texts, overrides = split_texts(overrides, TEXT_KEYS)

    def shown(config: Any) -> str:
        config.merge_with(texts)
        return yaml_of(config)

    if answered_help(overrides, HELP, "compare", shown):
        return 0
    plan, how = _prepare(texts, overrides)
    report = _Report(plan, Console(file=sys.stdout))
    try:
        _measure_all(plan, how, report)
    except BaseException:
        report.rescue()
        raise
    if not report.lines:
        raise SettingsError("no sampler could be run; the reasons are above")
    return 0


def read_list(text: str) -> list[str]:
    """The entries of ``a`` or ``[a,'b',c:k=1,l=2]``, each once.

    The shell may have taken the quotes away: a ``key=value`` that names no sampler belongs to the entry before it.
    """
    inner = re.fullmatch(r"\s*\[(.*)\]\s*", text, flags=re.DOTALL)
    entries: list[str] = []
    for piece in _split(inner[1] if inner else text):
        entry = piece.strip()
        quoted = len(entry) > 1 and entry[0] in "'\"" and entry[-1] == entry[0]
        goes_on = bool(entries) and not quoted and "=" in entry and ":" not in entry.partition("=")[0]
        if goes_on:
            entries[-1] += f",{entry}"
        elif entry:
            entries.append(entry[1:-1] if quoted else entry)
    return list(dict.fromkeys(entries))


def _split(text: str) -> list[str]:
    """Cut at the commas outside quotes and brackets."""
    return re.findall(r"(?:'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[^,])+", text)


def _prepare(texts: dict[str, str], overrides: list[str]) -> tuple[Plan, Decoding]:
    """Check and build everything, then load the model.

    Raises:
        SettingsError: unknown names, settings out of range, no matplotlib where pictures are wanted.
    """
    from dlm.evaluation.compare import Decoding, Questions

    if any(o.partition("=")[0].lstrip("+~") == "sampler" for o in overrides):
        raise SettingsError("compare takes several samplers: samplers=[NAME,...] instead of sampler=NAME")
    # Settings of a sampler are no part of what all samplers share: not every one knows them.
    config = compose_config("compare", [o for o in overrides if not o.startswith("sampler.")])
    wanted = config.max_new_tokens
    for key in ("n", "batch_size", *(["max_new_tokens"] if wanted is not None else [])):
        if type(config[key]) is not int or config[key] < 1:
            raise SettingsError(f"{key} must be a whole number of at least 1, got {config[key]!r}")
    if not isinstance(config.pictures, bool):
        raise SettingsError(f"pictures must be true or false, got {config.pictures!r}")
    labels = _labels("sampler", texts.get("samplers", config.samplers), leave_out=("parts",))
    caches = _labels("cache", texts["caches"]) if texts.get("caches", "null") != "null" else [""]
    names = read_list(texts["task"]) if "task" in texts else [str(config.task)]
    if not names:
        raise SettingsError("task names none: give at least one, for example task=waiting_line/copy")
    questions = [Questions.of(name, config.n, wanted) for name in names]
    out = Path(texts["out"]).expanduser() if texts.get("out") else None
    if out is not None and config.pictures:
        from dlm.evaluation.pictures import check_matplotlib

        check_matplotlib()
    config.max_new_tokens = questions[0].max_new_tokens  # parts_of wants a number; Questions holds the one per task
    parts = parts_of(config)
    ways = {
        f"{label} + {cache}" if cache else label: _built(label, cache, overrides)
        for label in labels
        for cache in caches
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    shared = {
        k: v for k, v in parts.config.items() if k not in ("sampler", "samplers", "caches", "task", "out", "debug")
    }
    how = Decoding(parts.load_model(), parts.cache, parts.drafter, parts.seed, parts.batch_size)
    record = {
        "task": names,
        "samplers": labels,
        "caches": [c for c in caches if c],
        **shared,
        "max_new_tokens": wanted,
        "overrides": overrides,
    }
    record["device"] = str(how.model.device)
    return Plan(questions, ways, out, config.pictures, record), how


def _labels(group: str, text: str, leave_out: Sequence[str] = ()) -> list[str]:
    """What was asked for as ``samplers=`` or ``caches=``, every name known.

    Raises:
        SettingsError: an unknown name (the known ones are listed), no name, settings that are not key=value.
    """
    known = choices(group)
    entries = read_list(text)
    labels = [n for n in known if n not in leave_out] if entries == ["all"] else entries
    if not labels:
        raise SettingsError(f"{group}s names none: all, or some of {', '.join(known)}")
    for label in labels:
        name, _, settings = label.partition(":")
        if name not in known:
            raise SettingsError(f"unknown {group} {name!r}; known are all or {', '.join(known)}")
        if bad := [s for s in _split(settings) if "=" not in s]:
            example = "topk:tokens_per_step=4" if group == "sampler" else "dual:every=8"
            raise SettingsError(f"{group}s: {bad[0]!r} in {label!r} is not key=value (as {example})")
    return labels


def _built(label: str, cache: str, overrides: list[str]) -> Way | str:
    """The sampler of a label with the cache of another (empty: the group's), or why their settings were refused."""
    from hydra.utils import instantiate
    from omegaconf.errors import OmegaConfBaseException

    own = _chosen("sampler", label) + (_chosen("cache", cache) if cache else [])
    try:
        config = compose_config("compare", [*overrides, *own])
        return Way(build(instantiate, config.sampler, _convert_="all"), build(instantiate, config.cache))
    except (SettingsError, OmegaConfBaseException) as error:
        return str(error).strip().splitlines()[0]


def _chosen(group: str, label: str) -> list[str]:
    """The overrides that a label stands for."""
    name, _, settings = label.partition(":")
    return [f"{group}={name}", *(f"{group}.{setting.strip()}" for setting in _split(settings))]


def _measure_all(plan: Plan, how: Decoding, report: _Report) -> None:
    """Every sampler on every task; the report takes each result in as it comes."""
    from dlm.evaluation.compare import Refused, measure, warm_up

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    warm = False
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        cell = bar.add_task("", total=len(plan.questions) * len(plan.ways))
        for questions in plan.questions:
            task = questions.task.name
            for label, way in plan.ways.items():
                bar.update(cell, description=escape(f"{task} {label}"))
                try:
                    if isinstance(way, str):
                        raise SettingsError(way)
                    mine = replace(how, cache=way.cache)
                    if not warm:
                        warm_up(questions, way.sampler, mine)
                        warm = True
                    report.take(measure(questions, label, way.sampler, mine))
                except SettingsError as error:
                    report.refuse(Refused(task, label, str(error)))
                bar.advance(cell)
            report.finish(questions)


class _Report:
    """What has been measured so far: tables on the console, files in the folder."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console = plan, console
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

    def finish(self, questions: Questions) -> None:
        """Print the table of a task and draw its picture."""
        from dlm.evaluation.compare import ranked

        task = questions.task.name
        self.shown.add(task)
        lines = ranked([line for line in self.lines if line.task == task])
        if lines:
            self.console.print(_table(lines))
        for refused in (r for r in self.refused if r.task == task):
            self.console.print(Text(f"refused: {refused.sampler}: {refused.reason}"), soft_wrap=True)
        if lines and self.plan.out is not None and self.plan.pictures:
            from dlm.evaluation.pictures import draw

            draw(lines, self.plan.out / f"{task.replace('/', '-')}.png")

    def rescue(self) -> None:
        """After an error or an interrupt: show the lines of a task that was not finished."""
        from dlm.evaluation.compare import ranked

        lines = ranked([line for line in self.lines if line.task not in self.shown])
        if lines:
            self.console.print(_table(lines))
        if self.lines and self.plan.out is not None:
            count = "1 line was" if len(self.lines) == 1 else f"{len(self.lines)} lines were"
            print(f"dlm: {count} measured; see {self.plan.out}/compare.csv", file=sys.stderr)

    def _write(self) -> None:
        if self.plan.out is None:
            return
        from dlm import __version__
        from dlm.evaluation.compare import Line

        table = io.StringIO()
        writer = csv.DictWriter(table, [f.name for f in fields(Line)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(line) for line in self.lines)
        write_whole(self.plan.out / "compare.csv", table.getvalue())
        whole = {
            "dlm": __version__,
            "settings": self.plan.record,
            "lines": [asdict(line) for line in self.lines],
            "refused": [asdict(refused) for refused in self.refused],
        }
        write_whole(self.plan.out / "compare.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def _table(lines: Sequence[Line]) -> Table:
    first = lines[0]
    title = f"{first.task}: {first.n} held-out questions, {first.max_new_tokens} positions each"
    # Eight columns fit into a terminal of 80 when nothing is spent on padding.
    table = Table(title=Text(title), title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=0)
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
            Text(line.sampler), share, f"{line.forwards:.1f}", f"{line.tokens_per_forward:.2f}",
            f"{line.canvas_tokens_per_forward:.2f}", f"{line.token_forwards:.0f}",
            f"{line.overhead_ms_per_step:.2f}", f"{line.outside_share:.0%}",
        )  # fmt: skip
    return table
