"""``dlm report``: tables, pictures and a page from folders of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dlm.choices import names
from dlm.commands.common import answered_help, flags_as_settings, folder_of, split_texts
from dlm.configuration import check_choice, check_switches, compose_config
from dlm.errors import SettingsError
from dlm.words import counted

if TYPE_CHECKING:
    from dlm.report.pairs import PairLine
    from dlm.report.summary import Options, Summary

HELP = """dlm report: tables, pictures and a page from folders of results.

usage: dlm report DIR [DIR ...] [key=value ...]
       dlm report curves=FILE.csv

  DIR                             what `dlm eval out=DIR` wrote; everything below it counts
  out=DIR/report                  where the files go: report.html (one page with all of it), report.md, points.csv,
                                  settings.csv, methods.csv, oracle.csv, tasks.csv, and pictures (PNG, SVG and the CSV
                                  behind each)
  pictures=true                   false: none; they need matplotlib (pip install 'dlm[plot]')
  format=table                    what is printed: table, csv (a line per point), markdown, json, latex (booktabs), or
                                  parallelbench (the table of the published ParallelBench's `pb analyze`; the files that
                                  its tools read go to OUT/parallelbench)
  pbx=[70,75,80,90]               PBx: the largest tokens per forward at a mean score of x percent
  rule=ours                       upstream: PBx as the published leaderboard has it: canvas tokens, and only adaptive
                                  methods are interpolated
  area=[LOW,HIGH]                 range of the area under score against log2 tokens per forward
  at=SPEED                        tokens per forward of the heat map
  curves=FILE.csv                 instead of DIR: PBx of published curves by the published rule; a line per point, with
                                  method, kind (static or adaptive), speed (canvas tokens per forward), score (percent)
  'pair=[A,B]'                    a paired test on the same questions; A and B are folders of results, their hashes, or
                                  settings as the table prints them: 'pair=[threshold threshold=0.9,topk]'

A method is a sampler with its cache, drafter and blocks; what is swept within it is found in the configurations. Means
over tasks are taken only where every task was measured, and points of a task are compared on the questions that they
have in common ("questions" says how many); a point that answered too few of these is marked and left out of fronts,
standings and pictures. Scores have 95 % intervals: Wilson's for right or wrong, a bootstrap over questions otherwise.
Points that are unfinished or have failures are listed and marked.

examples:
  dlm report runs
  dlm report runs format=csv pictures=false > points.csv
  dlm report runs/a runs/b out=report 'pair=[threshold threshold=0.9,factor factor=1.0]'
  dlm report runs rule=upstream pbx=[70,80]
"""
TEXT_KEYS = ("dir", "out", "pair", "curves")
WIDTH = 150  # of the tables where there is no terminal


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    overrides = flags_as_settings(overrides, "report", TEXT_KEYS)
    named = [o for o in overrides if not o.startswith("-") and ("=" not in o or Path(o).is_dir())]
    texts, rest = split_texts([o for o in overrides if o not in named], TEXT_KEYS)
    if answered_help(rest, HELP, "report", texts):
        return 0
    config = compose_config("report", rest)
    folders = [Path(name).expanduser() for name in [*named, *names(texts.get("dir", ""))]]
    curves = Path(texts["curves"]).expanduser() if texts.get("curves", "null") != "null" else None
    if bool(folders) == (curves is not None):
        raise SettingsError("name a folder of results, dlm report DIR, or published curves, dlm report curves=FILE.csv")
    check_switches(config, "pictures")
    drawn = config.pictures and bool(folders)
    out = folder_of(texts.get("out"), drawn) or folder_of(Path(*folders[:1]) / "report", drawn)
    assert out is not None
    options = _options(config)
    if curves is not None:
        _print_curves(curves, options.x, config.format)
        return 0
    from dlm.report.figures import figures_of
    from dlm.report.page import write_report
    from dlm.report.pairs import compare
    from dlm.report.summary import summary_of

    figures = figures_of(folders)
    pair = names(texts["pair"]) if texts.get("pair", "null") != "null" else []
    pairs = compare(figures, pair) if pair else []
    summary = summary_of(figures, options)
    # First: `| less` may end before all is printed.
    write_report(summary, pairs, out, folders if config.pictures else None)
    _print(summary, pairs, config.format, out)
    print(f"dlm: {counted(len(figures), 'point')}; see {out}/report.html", file=sys.stderr)
    return 0


def _options(config: Any) -> Options:
    """What is computed, and how it is printed, checked."""
    from dlm.report.summary import Options

    check_choice("format", config.format, ("table", "csv", "markdown", "json", "latex", "parallelbench"))
    if config.rule not in ("ours", "upstream"):
        raise SettingsError(f"rule must be ours or upstream, got {config.rule!r}")
    x = _numbers("pbx", config.pbx, "a list of percentages, as pbx=[70,80]")
    if not all(0 < value <= 100 for value in x):
        raise SettingsError(f"pbx must hold percentages above 0 and up to 100, got {list(x)}")
    area = () if config.area is None else _numbers("area", config.area, "two speeds, as area=[1,32]")
    if area and (len(area) != 2 or not 0 < area[0] < area[1]):
        raise SettingsError(f"area must be two rising tokens per forward, as area=[1,32], got {list(area)}")
    low, high = area or (None, None)
    at = config.at
    if at is not None and (isinstance(at, bool) or not isinstance(at, int | float) or at <= 0):
        raise SettingsError(f"at must be a number of tokens per forward above 0, got {at!r}")
    return Options(x, config.rule, low, high, None if at is None else float(at))


def _numbers(key: str, values: Any, wanted: str) -> tuple[float, ...]:
    items: list[Any] = [values] if isinstance(values, str | int | float | None) else list(values)
    if not items or any(isinstance(v, bool) or not isinstance(v, int | float) for v in items):
        raise SettingsError(f"{key} must be {wanted}, got {values!r}")
    return tuple(float(v) for v in items)


def _print(summary: Summary, pairs: Sequence[PairLine], how: str, out: Path) -> None:
    from dlm.report import tables

    if how == "csv":
        print(tables.csv_of([f.row for f in summary.figures]), end="")
    elif how == "json":
        print(tables.as_json(summary, pairs), end="")
    elif how == "markdown":
        print(tables.markdown(tables.sheets_of(summary, pairs)), end="")
    elif how == "latex":
        from dlm.report.latex import latex

        print(latex(summary), end="")
    elif how == "parallelbench":
        from dlm.report.parallelbench import write_parallelbench

        print(write_parallelbench(summary, out), end="")
    else:
        console = Console(file=sys.stdout)
        if not console.is_terminal:
            console = Console(file=sys.stdout, width=WIDTH)
        for sheet in tables.sheets_of(summary, pairs, tables.LONGEST):
            for part in tables.fitting(sheet, console.width):
                console.print(tables.rich_table(part))


def _print_curves(path: Path, x: Sequence[float], how: str) -> None:
    """PBx of published curves."""
    from dlm.report import tables
    from dlm.report.published import published

    sheet = published(path, x)
    if how == "csv":
        print(tables.csv_of(sheet.rows, sheet.heads), end="")
    elif how == "json":
        print(json.dumps([dict(zip(sheet.heads, row, strict=True)) for row in sheet.rows], indent=1))
    elif how == "markdown":
        print(tables.markdown([sheet]), end="")
    else:
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH).print(tables.rich_table(sheet))
