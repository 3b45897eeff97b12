"""A trace as text: the canvas forward by forward, on a terminal or down a page."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dlm.trace.pieces import FILLER, MASKED, fold
from dlm.trace.steps import Trace, TraceStep
from dlm.words import counted

TAKEN_BACK = "▒"
BORDERS = ("⟦", "⟧")  # around the block at work
NAMED = ("<|", "|>")  # how the names of special tokens begin and end


class Replay:
    """The canvas of a trace as text.

    Green and bold: committed by this forward; a light block: masked; a darker red one: taken back by this forward; a
    dot: a special token, or one without a visible form.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.frames = list(trace.replay())

    def canvas(self, number: int) -> Text:
        """The generated region after ``number`` forwards, on one line."""
        trace, text = self.trace, Text()
        step = trace.steps[number - 1] if number else None
        new = set(step.positions) if step is not None else set()
        back = set(step.remasked) if step is not None else set()
        block = step.block if step is not None else trace.steps[0].block if trace.steps else None
        for position in range(trace.start, len(trace.canvas)):
            if block is not None and position == block[0]:
                text.append(BORDERS[0], style="blue")
            token = self.frames[number][position]
            if position in back and token == trace.mask_id:
                text.append(TAKEN_BACK, style="red")
            elif token == trace.mask_id:
                text.append(MASKED, style="bright_black")
            else:
                text.append(self._piece(token), style="bold green" if position in new else "")
            if block is not None and position == block[1] - 1:
                text.append(BORDERS[1], style="blue")
        return text

    def heading(self, number: int) -> Text:
        """What the ``number``-th forward did, in one line; 0: before the first."""
        total = len(self.trace.steps)
        line = Text(f"forward {number} of {total}", style="bold")
        if not number:
            return line.append(": nothing decided yet", style="not bold")
        return line.append(": " + ", ".join(told(self.trace.steps[number - 1], self.trace.start)), style="not bold")

    def steps(self, only: int | None = None) -> Iterator[tuple[Text, Text]]:
        """Heading and canvas after every forward, or after the given one."""
        for number in range(len(self.frames)) if only is None else (only,):
            yield self.heading(number), self.canvas(number)

    def _piece(self, token: int) -> str:
        """A token as visible text on one line: nothing a model wrote reaches the terminal as a control code."""
        if not self.trace.pieces:
            return f"{token} "
        text = self.trace.pieces.get(token, f"<{token}>")
        if text.startswith(NAMED[0]) and text.endswith(NAMED[1]):
            return FILLER
        text = text.replace("\n", "⏎").replace("\t", " ")
        return "".join(c if c.isprintable() else FILLER for c in text) or FILLER


def told(step: TraceStep, start: int) -> list[str]:
    """What a forward did, in a few words each; positions counted from ``start``."""
    words = [f"block {step.block[0] - start}-{step.block[1] - start - 1}", f"{len(step.positions)} committed"]
    if step.remasked:
        words.append(f"{len(step.remasked)} taken back")
    if step.filled is not None:
        words.append("the rest filled" if step.cut is None else f"the row ends at {step.cut - start}")
    if step.drafts:
        words.append(f"{step.accepted} of {counted(step.drafts, 'draft')} accepted")
    if step.cache is not None:
        words.append(
            f"{counted(step.cache.fed, 'position')} fed" + (", everything refreshed" if step.cache.refresh else "")
        )
    return words


def show(trace: Trace, console: Console, speed: float, only: int | None = None, animate: bool = False) -> None:
    """Print the forwards one below the other, or play them in place.

    Args:
        trace: the row.
        console: where to.
        speed: forwards a second, when they are played.
        only: the canvas after so many forwards alone.
        animate: play them in place.
    """
    replay = Replay(trace)
    if trace.about.get("prompt"):
        console.print(Text(_printable(str(trace.about["prompt"])), style="dim"), soft_wrap=True)
    if not animate or only is not None:
        for heading, canvas in replay.steps(only):
            console.print(heading, soft_wrap=True)
            console.print(canvas, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for number, (heading, canvas) in enumerate(replay.steps()):
            if number:
                time.sleep(1 / speed)
            lines = fold(canvas, max(1, console.width))[: max(1, console.height - 3)]
            live.update(Group(heading, *lines), refresh=True)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else FILLER for c in text)
