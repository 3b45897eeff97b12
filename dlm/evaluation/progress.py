"""How far a run is: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dlm.evaluation.sample import Sample
from dlm.evaluation.tally import effective
from dlm.words import visible

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal
DRAW_EVERY = 0.5  # and between two pictures of the bar, which take a millisecond each


def progress_bar(*times: ProgressColumn, quiet: bool = False) -> Progress:
    """A bar on stderr, where that is a terminal, with a description; ``times``: instead of the time gone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *(times or [TimeElapsedColumn()]))
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty())


@contextmanager
def telling(model: Mapping[str, Any]) -> Iterator[None]:
    """Say on stderr which model is being loaded (a large one takes minutes); nothing of the packaged one."""
    name = model.get("name_or_path")
    nowhere = str(name).startswith(("/", ".", "~")) and not Path(str(name)).expanduser().is_dir()
    if name not in (None, "tiny") and not nowhere:
        print(visible(f"dlm: loading {name}"), file=sys.stderr, flush=True)
    yield


class Board:
    """Counts what is finished and shows it on stderr.

    Args:
        title: what is being asked.
        total: questions of this run.
        quiet: show nothing.
    """

    def __init__(self, title: str, total: int, quiet: bool = False) -> None:
        self.title, self.total, self.quiet = title, total, quiet
        self.done = self.failures = 0
        self._score = self._effective = 0.0
        self._started = self._shown = time.monotonic()
        # Not console.is_terminal: FORCE_COLOR makes that true for a pipe.
        self._bar = None
        if not quiet and sys.stderr.isatty():
            # The title has a line of its own: 80 columns hold no more than the rest.
            figures = TextColumn("{task.fields[figures]}", markup=False)
            columns = (BarColumn(bar_width=14), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
            self._bar = Progress(*columns, figures, console=Console(stderr=True), transient=True, auto_refresh=False)
            self._task = self._bar.add_task("", total=total, figures="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.console.print(self.title, markup=False, highlight=False, style="bold")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def take(self, sample: Sample) -> None:
        """Another answer."""
        self.done += 1
        self._score += sample.score
        self._effective += effective(sample)
        self.tick()

    def fail(self) -> None:
        """A question without an answer."""
        self.failures += 1
        self.tick()

    def tick(self) -> None:
        """Show where things stand, if it is time to."""
        now = time.monotonic()
        if self.quiet or now - self._shown < (DRAW_EVERY if self._bar is not None else LINE_EVERY):
            return
        self._shown = now
        over = self.done + self.failures
        rate = over / (now - self._started)
        figures = f"{rate:.1f}/s"
        if n := self.done:
            figures += f", score {self._score / n:.3f}, {self._effective / n:.2f} tokens per forward"
            figures += f", {self.failures} failed" if self.failures else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=over, figures=figures)
            self._bar.refresh()
        else:
            left = (self.total - over) / rate if rate else 0.0
            told = f"dlm: {self.title}: {over} of {self.total}, {left:.0f} s left, {figures}"
            print(told, file=sys.stderr, flush=True)
