"""The README's picture: three samplers fill the same canvas, forward by forward, as they did in a real run.

    PYTHONPATH=. python scripts/canvas_svg.py [docs/canvas.svg]

An SVG that plays by itself in any browser, and shows the full canvases where nothing plays.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import dlm
import samplers
from dlm.files import write_whole
from dlm.trace import pieces_of

PROMPT = 'Shuffle the list: ["Anna", "Bob", "Cleo", "Dan"]'
RUNS = {
    "one token a forward": samplers.topk(),
    "four tokens a forward": samplers.topk(tokens_per_step=4),
    "whatever is sure: threshold 0.9": samplers.threshold(0.9),
}
LENGTH, ROW, WIDE, HELD = 32, 70, 760, 8  # HELD: forwards' time for which the end is shown
STYLE = """
text { font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #1d1c1a }
.t { font-weight: bold } .q { fill: #6b6860 }
.m { fill: #e9e7e0 } .c { fill: #bfe3ef } .e { fill: #dfe9d3 }
@media (prefers-color-scheme: dark) {
text { fill: #ecebe6 } .q { fill: #a5a29a }
.m { fill: #34363c } .c { fill: #1f5f78 } .e { fill: #3d5230 }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important } }
"""


def shown(piece: str) -> str:
    """An end token is filler."""
    return "·" if piece.startswith("<|") else piece.replace(" ", "\u00a0")


def main(out: Path) -> None:
    """Decode, and draw."""
    model = dlm.load("tiny")
    answers = {n: dlm.generate(model, PROMPT, sampler=s, max_new_tokens=LENGTH)[0] for n, s in RUNS.items()}
    total = max(answer.counts.forwards for answer in answers.values()) + HELD
    frames: dict[str, str] = {}
    drawn: list[str] = [f'<text x="10" y="24" class="q">{escape(PROMPT)}</text>']

    def between(first: int, end: int) -> str:
        """The style of what is there from one forward on, and up to another."""
        start, stop = (100 * step / total for step in (first, end))
        rule = f"0%,{start:.2f}%{{opacity:0}}{start + 0.01:.2f}%,{stop:.2f}%{{opacity:1}}"
        name = f"f{first}-{end}"
        frames[name] = f"@keyframes {name}{{{rule}" + (
            f"{stop + 0.01:.2f}%,100%{{opacity:0}}}}" if end < total else "}"
        )
        return f"animation:{name} {total * 0.3:.1f}s infinite"

    for line, (name, answer) in enumerate(answers.items()):
        x, y, forwards = 10.0, 62 + line * ROW, answer.counts.forwards
        drawn.append(f'<text x="10" y="{y}" class="t">{escape(name)}</text>')
        for step in range(forwards + 1):
            last = step == forwards
            told = f"{step} forward{'s' * (step != 1)}" + (f": {answer.text}" if last else "")
            still = "" if last else ' opacity="0"'
            style = between(step, total if last else step + 1)
            drawn.append(f'<text x="290" y="{y}" class="q"{still} style="{style}">{escape(told)}</text>')
        pieces = pieces_of(model, answer.tokens)
        for token, step in zip(answer.tokens, answer.commit_step, strict=True):
            piece = shown(pieces[token])
            filler = piece == "·"
            width, indent = (12, 2) if filler else (8.5 * len(piece) + 8, 4)
            box = f'x="{x}" y="{y + 9}" width="{width}" height="24" rx="4"'
            letters = f'<text x="{x + indent}" y="{y + 26}">{escape(piece)}</text>'
            drawn.append(f'<rect {box} class="m"/><g style="{between(step + 1, total)}">')
            drawn.append(f'<rect {box} class="{"e" if filler else "c"}"/>{letters}</g>')
            x += width + 3
    high = 46 + ROW * len(answers)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}">'
    title = "<title>Three samplers fill the same canvas of masks</title>"
    write_whole(out, "\n".join([head, title, f"<style>{STYLE}{''.join(frames.values())}</style>", *drawn, "</svg>\n"]))


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "docs/canvas.svg"))
