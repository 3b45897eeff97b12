"""What a person sees."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import dlm
import samplers
from dlm.display import card, one_line, watch

PROMPTS = ['Copy the list: ["Anna", "Bob", "Cleo"]', "47+85="]


def shown(terminal: bool, **options: object) -> tuple[str, list[dlm.Generation]]:
    model, out = dlm.load("tiny"), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, **options)  # type: ignore[arg-type]
    events = dlm.stream(model, PROMPTS, sampler=samplers.topk(), max_new_tokens=16)
    answers = dict(watch(model, events, console))
    return out.getvalue(), [answers[i] for i in range(len(PROMPTS))]


def test_a_line_per_row_and_step_without_a_terminal() -> None:
    text, answers = shown(terminal=False)
    lines = text.splitlines()
    assert len([line for line in lines if line.startswith("[0] step")]) == answers[0].counts.forwards
    assert "░" in lines[0]
    last = next(line for line in reversed(lines) if line.startswith("[0]"))
    assert answers[0].text in last
    assert "░" not in last
    assert "\x1b" not in text


def test_a_terminal_sees_new_tokens_in_green(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text, answers = shown(terminal=True)
    assert "\x1b[1;32m" in text
    assert answers[0].text
    monkeypatch.setenv("NO_COLOR", "1")
    plain, _ = shown(terminal=True)
    assert "\x1b[1;32m" not in plain
    assert "32m" not in plain


def test_the_card_adds_up() -> None:
    _, answers = shown(terminal=False)
    out = io.StringIO()
    Console(file=out, width=100).print(card(answers))
    forwards = sum(a.counts.forwards for a in answers)
    assert f"{forwards} │" in out.getvalue()
    assert f"{forwards} forwards" in one_line(answers)
    assert one_line([]).startswith("0 answers")
