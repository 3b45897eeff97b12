"""What a person sees: the canvas as it fills, and the card at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dlm.api import StreamStep
from dlm.models import LanguageModel
from dlm.result import Generation

MASKED = "░"
Event = StreamStep | tuple[int, Generation]


class CanvasView:
    """The half-filled answers, one line each: masked, newly committed (green), committed."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.lines: dict[int, Text] = {}

    def update(self, step: StreamStep) -> None:
        """Take the new state of one row in."""
        line = Text()
        for position, token in enumerate(step.canvas):
            if token == self.model.description.mask_id:
                line.append(MASKED, style="bright_black")
            else:
                line.append(self._piece(token), style="bold green" if position in step.committed else "")
        self.lines[step.index] = line

    def _piece(self, token: int) -> str:
        if token in self.model.description.eos_ids:
            return "·"
        return self.model.decode([token]) if self.model.tokenizer is not None else f"{token} "

    def __rich__(self) -> Group:
        return Group(*(Text(f"{i:>3} ", style="bright_black") + self.lines[i] for i in sorted(self.lines)))


def watch(model: LanguageModel, events: Iterable[Event], console: Console) -> Iterator[tuple[int, Generation]]:
    """Show a stream and hand the finished rows on: redrawn in place on a terminal, a line a step elsewhere."""
    view = CanvasView(model)
    if not console.is_terminal:
        for event in events:
            if isinstance(event, StreamStep):
                view.update(event)
                console.print(
                    f"[{event.index}] step {event.step} +{len(event.committed)} ", view.lines[event.index],
                    sep="", soft_wrap=True, markup=False, highlight=False,
                )  # fmt: skip
            else:
                yield event
        return
    with Live(view, console=console, auto_refresh=False, transient=False) as live:
        for event in events:
            if isinstance(event, StreamStep):
                view.update(event)
                live.refresh()
            else:
                yield event


def card(answers: list[Generation]) -> Panel:
    """The figures of a run, summed over its rows; ratios are means over rows."""
    counts = [answer.counts for answer in answers]
    n = max(1, len(counts))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bright_black")
    table.add_column(justify="right")
    seconds = sum(c.seconds for c in counts)
    rows = [
        ("prompt tokens", f"{sum(len(a.prompt_tokens) for a in answers)}"),
        ("positions filled", f"{sum(len(a.tokens) for a in answers)}"),
        ("answer tokens", f"{sum(c.tokens for c in counts)}"),
        ("forwards", f"{sum(c.forwards for c in counts)}"),
        ("tokens per forward", f"{sum(c.tokens_per_forward for c in counts) / n:.2f}"),
        ("  counting filler", f"{sum(c.canvas_tokens_per_forward for c in counts) / n:.2f}"),
        ("seconds", f"{seconds:.2f}"),
        ("  refresh", f"{sum(c.seconds_refresh for c in counts):.2f}"),
        ("  step", f"{sum(c.seconds_step for c in counts):.2f}"),
        ("  sampler", f"{sum(c.seconds_sampler for c in counts):.2f}"),
        ("answer tokens per second", f"{sum(c.tokens for c in counts) / seconds if seconds else 0:.1f}"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return Panel(table, title=f"{len(answers)} answer{'s' if len(answers) != 1 else ''}", expand=False)


def one_line(answers: list[Generation]) -> str:
    """The card in one line."""
    counts = [answer.counts for answer in answers]
    forwards, tokens = sum(c.forwards for c in counts), sum(c.tokens for c in counts)
    mean = sum(c.tokens_per_forward for c in counts) / max(1, len(counts))
    seconds = sum(c.seconds for c in counts)
    return (
        f"{len(answers)} answers, {tokens} tokens, {forwards} forwards, {mean:.2f} tokens per forward,"
        f" {seconds:.2f} s ({sum(c.seconds_sampler for c in counts):.2f} s outside the model)"
    )
