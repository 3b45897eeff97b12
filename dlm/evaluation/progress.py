"""How far a run is: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dlm.evaluation.sample import Sample
from dlm.evaluation.tally import effective

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal
DRAW_EVERY = 0.5  # and between two pictures of the bar, which take a millisecond each


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
        console = Console(stderr=True)
        # Not console.is_terminal: FORCE_COLOR makes that true for a pipe.
        self._bar = None
        if not quiet and sys.stderr.isatty():
            # The title has a line of its own: 80 columns hold no more than the rest.
            columns = (
                BarColumn(bar_width=14),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[figures]}", markup=False),
            )
            self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
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
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done + self.failures, figures=self._figures(now))
            self._bar.refresh()
        else:
            rate = (self.done + self.failures) / (now - self._started)
            left = (self.total - self.done - self.failures) / rate if rate else 0.0
            print(
                f"dlm: {self.title}: {self.done + self.failures} of {self.total}, {left:.0f} s left,"
                f" {self._figures(now)}",
                file=sys.stderr,
                flush=True,
            )

    def _figures(self, now: float) -> str:
        rate = (self.done + self.failures) / (now - self._started)
        if not self.done:
            return f"{rate:.1f}/s"
        failures = f", {self.failures} failed" if self.failures else ""
        return (
            f"{rate:.1f}/s, score {self._score / self.done:.3f}, {self._effective / self.done:.2f} tokens per forward"
            f"{failures}"
        )
