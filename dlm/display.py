"""What a person sees: the canvas as it fills, and the card at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from html import escape

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dlm.api import Generation, StreamStep
from dlm.engine.result import Counts
from dlm.errors import SettingsError
from dlm.models import LanguageModel
from dlm.trace.pieces import FILLER, MASKED, fold
from dlm.words import counted

LABEL = 4  # width of "  0 "
FRAME = 1 / 30  # seconds between redraws: a fast model steps more often than an eye follows
LONGEST_CHARACTER = 4  # tokens that one character may be spread over
Event = StreamStep | tuple[int, Generation]


class CanvasView:
    """The half-filled answers of the rows at work: masked, newly committed (green), committed."""

    def __init__(self, model: LanguageModel) -> None:
        self.mask_id, self.end_ids = model.description.mask_id, model.description.eos_ids
        self.model = model
        self.lines: dict[int, Text] = {}
        self._shown: dict[tuple[int, ...], str] = {}

    def update(self, step: StreamStep) -> None:
        """Take the new state of one row in."""
        self.lines[step.index] = self.line(step.canvas, step.committed)

    def line(self, canvas: list[int], new: Iterable[int] = ()) -> Text:
        """A row as one line; the positions ``new`` stand out."""
        text, fresh, at = Text(), set(new), 0
        while at < len(canvas):
            if canvas[at] == self.mask_id:
                text.append(MASKED, style="bright_black")
                at += 1
                continue
            size = self._character(canvas, at)
            style = "bold green" if fresh & set(range(at, at + size)) else ""
            text.append(self._piece(tuple(canvas[at : at + size])), style=style)
            at += size
        return text

    def _character(self, canvas: list[int], at: int) -> int:
        """How many tokens to decode together: a character may be spread over several byte-level tokens."""
        for size in range(1, LONGEST_CHARACTER + 1):
            tokens = tuple(canvas[at : at + size])
            if len(tokens) < size or self.mask_id in tokens:
                break
            if "\ufffd" not in self._piece(tokens):
                return size
        return 1

    def _piece(self, tokens: tuple[int, ...]) -> str:
        """Tokens as visible text on one line; what a model writes never reaches the terminal as a control code."""
        if tokens not in self._shown:
            if self.model.tokenizer is None:
                text = " ".join(map(str, tokens)) + " "
            else:
                text = "" if tokens[0] in self.end_ids else self.model.decode(tokens)
            text = text.replace("\n", "⏎").replace("\t", " ")
            self._shown[tokens] = "".join(c if c.isprintable() else FILLER for c in text) or FILLER
        return self._shown[tokens]

    def fitting(self, width: int, height: int) -> list[Text]:
        """The rows folded to the terminal; where they do not all fit, the part of each that is being filled."""
        rows = max(1, height // max(1, len(self.lines)))
        shown = []
        for index in sorted(self.lines)[: max(1, height)]:
            folded = fold(self.lines[index], max(1, width - LABEL))
            open_ = next((i for i, line in enumerate(folded) if MASKED in line.plain), len(folded) - 1)
            first = max(0, min(open_ - rows // 2, len(folded) - rows))
            for i, line in enumerate(folded[first : first + rows]):
                shown.append(label(index if i == 0 else None) + line)
        return shown

    def __rich_console__(self, console: Console, options: object) -> Iterator[Group]:
        yield Group(*self.fitting(console.width, console.height - 1))


def label(index: int | None) -> Text:
    """What stands before a line: the row's number, or nothing where the line goes on."""
    return Text.assemble((f"{index:>{LABEL - 1}} " if index is not None else " " * LABEL, "bright_black"))


def watch(
    model: LanguageModel, events: Iterable[Event], console: Console, keep: bool = True
) -> Iterator[tuple[int, Generation]]:
    """Show a stream and hand the finished rows on: redrawn in place on a terminal, a line a step elsewhere.

    On a terminal a finished row moves up above those at work, so that any number of prompts stays readable; without
    ``keep`` it goes.
    """
    view = CanvasView(model)
    if not console.is_terminal or console.is_dumb_terminal:
        yield from _plain(view, events, console)
        return
    with Live(view, console=console, auto_refresh=False, transient=True) as live:
        drawn = 0.0
        for event in events:
            if isinstance(event, StreamStep):
                view.update(event)
            else:
                view.lines.pop(event[0], None)
                rest = fold(view.line(event[1].tokens), max(1, console.width - LABEL)) if keep else []
                for i, line in enumerate(rest):
                    console.print(label(event[0] if i == 0 else None) + line, no_wrap=True, highlight=False)
                yield event
            if time.monotonic() - drawn >= FRAME:
                live.refresh()
                drawn = time.monotonic()


def _plain(view: CanvasView, events: Iterable[Event], console: Console) -> Iterator[tuple[int, Generation]]:
    for event in events:
        if isinstance(event, StreamStep):
            start = f"[{event.index}] step {event.step} +{len(event.committed)} "
            line = view.line(event.canvas, event.committed)
            console.print(start, line, sep="", soft_wrap=True, markup=False, highlight=False)
        else:
            yield event


def show(model: LanguageModel, events: Iterable[Event]) -> list[Generation]:
    """The answers of :func:`dlm.stream`, in order; in a notebook the canvases are redrawn in the cell as they fill.

    ``dlm.show(model, dlm.stream(model, prompts, sampler="threshold"))`` needs no widgets. Raises SettingsError: IPython
    is not installed.
    """
    try:
        from IPython.display import HTML, display
    except ImportError as error:
        raise SettingsError("dlm.show draws in a notebook: pip install ipython, or go through the events") from error
    view, done, handle, drawn = CanvasView(model), dict[int, Generation](), None, 0.0
    for event in events:
        if isinstance(event, StreamStep):
            view.update(event)
        else:
            done[event[0]] = event[1]
        if isinstance(event, StreamStep) and time.monotonic() - drawn < 3 * FRAME:
            continue
        drawn = time.monotonic()
        lines = "\n".join(_as_html(line) for _, line in sorted(view.lines.items()))
        page = HTML(f"<pre style='white-space:pre-wrap'>{lines}</pre>")
        if handle is None:
            handle = display(page, display_id=True)
        else:
            handle.update(page)
    return [answer for _, answer in sorted(done.items())]


def _as_html(line: Text) -> str:
    pieces, at, styles = [], 0, {"bright_black": "opacity:.4", "bold green": "font-weight:bold;color:#2a8a3e"}
    for span in line.spans:
        pieces += [escape(line.plain[at : span.start]), f"<span style='{styles.get(str(span.style), '')}'>"]
        pieces += [escape(line.plain[span.start : span.end]), "</span>"]
        at = span.end
    return "".join([*pieces, escape(line.plain[at:])])


def card(answers: list[Generation]) -> Panel:
    """The figures of a run, summed over its rows; ratios are means over rows."""
    counts = [answer.counts for answer in answers]
    n = max(1, len(counts))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bright_black")
    table.add_column(justify="right")
    seconds = sum(c.seconds for c in counts)
    filled, useful = sum(len(a.tokens) for a in answers), sum(c.tokens for c in counts)
    cut = sum(c.positions_cut for c in counts)
    stored = sum(c.forwards + c.store_forwards for c in counts) if any(c.store_forwards for c in counts) else 0
    experts = sum(c.experts * c.forwards for c in counts) / max(1, sum(c.forwards for c in counts))
    rows = [
        ("prompt tokens", f"{sum(len(a.prompt_tokens) for a in answers)}"),
        ("positions filled", f"{filled}"),
        ("  answer tokens", f"{useful}"),
        ("  trimmed at the end", f"{filled - useful}"),
        *([("  cut away by a stop rule", f"{cut}")] if cut else []),
        ("forwards", f"{sum(c.forwards for c in counts)}"),
        ("  until the last answer token", f"{sum(map(_needed, counts))}"),
        *([("  as the published loop counts", f"{stored}")] if stored else []),
        *([("  experts each reached in a layer", f"{experts:.1f}")] if experts else []),
        *_accepted(counts),
        ("tokens per forward", f"{sum(c.tokens_per_forward for c in counts) / n:.2f}"),
        ("  counting filler", f"{sum(c.canvas_tokens_per_forward for c in counts) / n:.2f}"),
        ("seconds", f"{seconds:.2f}"),
        ("  refresh", f"{sum(c.seconds_refresh for c in counts):.2f}"),
        ("  step", f"{sum(c.seconds_step for c in counts):.2f}"),
        ("  sampler", f"{sum(c.seconds_sampler for c in counts):.2f}"),
        ("answer tokens per second", f"{useful / seconds if seconds else 0:.1f}"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return Panel(table, title=_answers(answers), expand=False)


def _accepted(counts: list[Counts]) -> list[tuple[str, str]]:
    """Drafts accepted, and how many forwards accepted 0, 1, 2, ... of them; nothing when there were none."""
    most = max((len(c.acceptance) for c in counts), default=0)
    if not most:
        return []
    forwards = [sum(c.acceptance[number] for c in counts if number < len(c.acceptance)) for number in range(most)]
    largest = max(forwards)
    bars = [(f"  {number} in one forward", f"{'▇' * round(8 * n / largest)} {n}") for number, n in enumerate(forwards)]
    return [("  drafts accepted", f"{sum(c.accepted_drafts for c in counts)}"), *bars]


def one_line(answers: list[Generation]) -> str:
    """The card in one line."""
    counts = [answer.counts for answer in answers]
    forwards, tokens = sum(c.forwards for c in counts), sum(c.tokens for c in counts)
    needed = sum(map(_needed, counts))
    seconds = sum(c.seconds for c in counts)
    each = f" ({tokens / needed:.2f} a forward)" if needed else ""
    return (
        f"{_answers(answers)}, {counted(tokens, 'token')} in {needed} of {counted(forwards, 'forward')}{each},"
        f" {seconds:.2f} s ({sum(c.seconds_sampler for c in counts):.2f} s outside the model)"
    )


def _needed(count: Counts) -> int:
    """Forwards until the last token of an answer was fixed."""
    return round(count.tokens / count.tokens_per_forward) if count.tokens_per_forward else 0


def _answers(answers: list[Generation]) -> str:
    return counted(len(answers), "answer")
