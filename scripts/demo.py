"""The packaged tiny model answers real prompts with two samplers: the quality of one token per forward, and the speed
of a confidence threshold."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

import dlm
import samplers

PROMPTS = [
    'Copy the list: ["Anna", "Bob", "Cleo", "Dan"]',
    'Reverse the list: ["Eva", "Finn", "Gina"]',
    'Remove item 2: ["Hugo", "Ida", "Jack", "Kate"]',
    'Insert "Leo" at position 3: ["Mia", "Nick", "Olga"]',
    "47+85=",
]


def main() -> None:
    """Print answers and forwards side by side."""
    model = dlm.load("tiny")
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    runs = {
        "one token per forward": samplers.topk(tokens_per_step=1),
        "threshold 0.9": samplers.threshold(0.9),
    }
    answers = {name: dlm.generate(model, chats, sampler=s, max_new_tokens=32) for name, s in runs.items()}
    table = Table(title="the tiny model, two samplers, the same prompts", show_lines=True)
    table.add_column("prompt", overflow="fold")
    for name in runs:
        table.add_column(f"{name}: answer", overflow="fold")
        table.add_column("forwards", justify="right")
    for i, prompt in enumerate(PROMPTS):
        cells = [(answers[name][i].text, str(answers[name][i].counts.forwards)) for name in runs]
        table.add_row(prompt, *(cell for pair in cells for cell in pair))
    console = Console()
    console.print(table)
    slow, fast = (sum(a.counts.forwards for a in answers[name]) for name in runs)
    console.print(
        f"{slow} forwards against {fast}: {slow / fast:.1f} times fewer. Next: `.venv/bin/dlm generate --help`"
    )


if __name__ == "__main__":
    main()
