"""The packaged tiny model answers real prompts with three samplers: one token per forward, a confidence threshold, and
four tokens per forward, whose haste shows where the tokens of an answer depend on each other."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

import dlm
import samplers
from dlm.words import counted

PROMPTS = [
    'Copy the list: ["Anna", "Bob", "Cleo", "Dan"]',
    'Reverse the list: ["Eva", "Finn", "Gina"]',
    'Insert "Leo" at position 3: ["Mia", "Nick", "Olga"]',
    "47+85=",
    'Shuffle the list: ["Anna", "Bob", "Cleo", "Dan"]',
]
RUNS = {
    "one token per forward": samplers.topk(tokens_per_step=1),
    "threshold 0.9": samplers.threshold(0.9),
    "four tokens per forward": samplers.topk(tokens_per_step=4),
}


def main() -> None:
    """Print answers and forwards side by side."""
    model = dlm.load("tiny")
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    answers = {name: dlm.generate(model, chats, sampler=s, max_new_tokens=32) for name, s in RUNS.items()}
    table = Table(title="the tiny model, three samplers, the same prompts", show_lines=True)
    for name in ("prompt", *RUNS):
        table.add_column(name, overflow="fold")
    for i, prompt in enumerate(PROMPTS):
        rows = [answers[name][i] for name in RUNS]
        table.add_row(prompt, *(f"{a.text}\n[dim]{counted(a.counts.forwards, 'forward')}[/dim]" for a in rows))
    console = Console()
    console.print(table)
    careful, sure, hasty = (sum(a.counts.forwards for a in answers[name]) for name in RUNS)
    console.print(
        f"{careful} forwards, {sure} with the threshold, {hasty} in haste. What is independent stays right at any"
        f" speed; the shuffled list in haste is no shuffle of the names ({answers['four tokens per forward'][-1].text})"
        ": its tokens depend on each other, and the threshold takes the time they need.\n"
        "Next: `.venv/bin/dlm generate --help`, `.venv/bin/dlm tasks`; `make test` installs the rest",
        markup=False,
    )


if __name__ == "__main__":
    main()
