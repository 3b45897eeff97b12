"""What an editor and a notebook show of the package."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import dlm

ROOT = Path(__file__).parent.parent


def test_model_and_answer_show_themselves_in_a_line() -> None:
    model = dlm.load("tiny")
    assert repr(model) == "LanguageModel('tiny', llada, 1.4 million parameters, float32, cpu)"
    (answer,) = dlm.generate(model, ["47+85="], sampler="topk", max_new_tokens=16)
    assert repr(answer).startswith(f"Generation({answer.text!r}, {answer.counts.tokens} tokens, 16 forwards, ")
    assert len(repr(replace(answer, text="long " * 99))) < 120


def test_a_notebook_shows_an_answer_as_text() -> None:
    (answer,) = dlm.generate("tiny", ["47+85="], sampler="topk", max_new_tokens=16)
    page = replace(answer, text="<script>alert('1')</script> & more")._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<span") == 16


def test_a_notebook_shows_canvases_as_they_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []
    handle = SimpleNamespace(update=pages.append)
    shown = ModuleType("IPython.display")
    shown.HTML = str  # type: ignore[attr-defined]
    shown.display = lambda page, display_id: (pages.append(page), handle)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr("dlm.display.FRAME", 0.0)
    model, prompts = dlm.load("tiny"), ["47+85=", 'Copy the list: ["<b>", "Eve"]']
    answers = dlm.show(model, dlm.stream(model, prompts, sampler="topk", max_new_tokens=16))
    whole = dlm.generate(model, prompts, sampler="topk", max_new_tokens=16)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in whole]
    assert len(pages) > 16
    assert pages[0].count("\u2591") == 15
    assert "\u2591" not in pages[-1]
    assert "<b>" not in pages[-1]


def test_type_checkers_of_users_read_the_types() -> None:
    """What they know then: scripts/typed_options.py, which `make lint` checks."""
    assert all((ROOT / room / "py.typed").is_file() for room in ("dlm", "samplers", "cache"))
