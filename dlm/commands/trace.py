"""``dlm trace``: replay what ``record=`` kept."""

from __future__ import annotations

import itertools
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from dlm.commands.common import answered_help, flags_as_settings, folder_of, split_texts
from dlm.configuration import check_counts, compose_config
from dlm.errors import SettingsError
from dlm.files import write_whole
from dlm.words import counted, meant

HELP = """dlm trace: replay what happened at each step.

usage: dlm trace show|html|plot FILE [key=value ...]

FILE is what `dlm generate trace=FILE` wrote, or the folder of a run of `dlm eval record=[...]`.

  dlm trace show FILE      the canvas, forward by forward, in the terminal; down the page where there is none
      index=0              which row, counted from 0
      step=K               the canvas after K forwards alone (0: before the first)
      speed=8              forwards a second

  dlm trace html FILE      one page that plays the rows in any browser, without a network
      out=PAGE             where to; beside the traces unless said otherwise
      limit=50             the most rows in it

  dlm trace plot FILE      pictures (PNG and SVG) and the figures behind them (CSV); needs matplotlib
      index=0              order and confidence of this row, forwards x positions, commits marked
      limit=50             and of so many rows the order of their positions, when there are several
      out=DIR              where to; beside the traces unless said otherwise

What can be recorded (dlm generate record=[...] or dlm eval record=[...]): order, confidence, candidates (the five
likeliest tokens at each commit), all_candidates (at every eligible position), logits (of these), cache.

examples:
  dlm generate 'prompt=Shuffle the list: ["Anna", "Bob", "Cleo"]' max_new_tokens=32 cache=dual trace=run.jsonl
  dlm trace show run.jsonl speed=4
  dlm trace html run.jsonl out=run.html
  dlm trace plot run.jsonl
"""
ACTIONS = ("show", "html", "plot")


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    overrides = flags_as_settings(overrides, "trace", ("file", "out"))
    if answered_help(overrides, HELP, "trace"):
        return 0
    action, path, settings = _asked(overrides)
    {"show": _show, "html": _html, "plot": _plot}[action](path, settings)
    return 0


def _asked(overrides: list[str]) -> tuple[str, Path, dict[str, Any]]:
    """The action, the file and the settings, checked."""
    action = overrides[0] if overrides else ""
    if action not in ACTIONS:
        given = f", got {action!r}{meant(action, ACTIONS)}" if action else ""
        raise SettingsError(
            f"dlm trace needs one of {', '.join(ACTIONS)} first{given}, for example: dlm trace show run.jsonl"
        )
    rest = list(overrides[1:])
    # A name may hold an equals sign, as the folders of a sweep do.
    named = [rest.pop(0)] if rest and ("=" not in rest[0] or Path(rest[0]).exists()) else []
    texts, rest = split_texts(rest, ("file", "out"))
    named += [texts["file"]] if "file" in texts else []
    if len(named) != 1:
        raise SettingsError(f"dlm trace {action} needs one file of traces, for example: dlm trace {action} run.jsonl")
    config = compose_config("trace", rest)
    settings: dict[str, Any] = {str(key): config[key] for key in config}
    settings["out"] = texts.get("out")
    check_counts(settings, "index", *(["step"] if settings["step"] is not None else []), least=0)
    check_counts(settings, "limit")
    speed = settings["speed"]
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed < float("inf"):
        raise SettingsError(f"speed must be above 0 (forwards a second), got {speed!r}")
    return action, Path(named[0]).expanduser(), settings


def _show(path: Path, settings: dict[str, Any]) -> None:
    from dlm.trace import read_traces
    from dlm.trace.terminal import show

    index, step = settings["index"], settings["step"]
    trace = _at(path, list(itertools.islice(read_traces(path), index + 1)), index)
    if step is not None and step > len(trace.steps):
        raise SettingsError(
            f"step={step}: the row has {counted(len(trace.steps), 'forward')}; give 0 to {len(trace.steps)}"
        )
    show(trace, Console(file=sys.stdout), settings["speed"], step, animate=sys.stdout.isatty())


def _html(path: Path, settings: dict[str, Any]) -> None:
    from dlm.trace import count_traces, read_traces
    from dlm.trace.page import page

    traces = list(itertools.islice(read_traces(path), settings["limit"]))
    if not traces:
        raise SettingsError(f"{path} holds no traces yet: record some first")
    # Rows of a repeated question are few; they count as rows only when nothing is left out.
    total = count_traces(path) if len(traces) == settings["limit"] else len(traces)
    out = Path(settings["out"] or _beside(path, ".html")).expanduser()
    if out.is_dir() or not out.parent.is_dir():
        raise SettingsError(f"out={out}: name a file in a folder that exists")
    write_whole(out, page(traces, path.name, total))
    left = f" (the first {len(traces):,} of {total:,}; limit= takes more)" if total > len(traces) else ""
    rows = counted(len(traces), "row")
    print(f"{out}: {rows}{left}, {out.stat().st_size / 1000:,.0f} kB")


def _plot(path: Path, settings: dict[str, Any]) -> None:
    from dlm.trace import read_traces
    from dlm.trace.plots import draw

    if find_spec("matplotlib") is None:
        raise SettingsError("dlm trace plot needs matplotlib: pip install 'dlm[plot]'; dlm trace html needs nothing")
    index = settings["index"]
    traces = list(itertools.islice(read_traces(path), max(settings["limit"], index + 1)))
    trace = _at(path, traces, index)
    folder = folder_of(settings["out"]) or (path if path.is_dir() else path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    for file in draw(trace, traces[: settings["limit"]], folder / (_beside(path, "").name + f"-{index}")):
        print(file)


def _at(path: Path, traces: list[Any], index: int) -> Any:
    if index >= len(traces):
        rows = counted(len(traces), "row")
        raise SettingsError(f"index={index}: {path} has {rows}, counted from 0")
    return traces[index]


def _beside(path: Path, ending: str) -> Path:
    """A file of the traces' name beside them; in a run's folder ``traces``."""
    return path / f"traces{ending}" if path.is_dir() else path.with_name(path.name.removesuffix(".jsonl") + ending)
