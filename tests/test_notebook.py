"""What an editor and a notebook show of the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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


def test_type_checkers_of_users_read_the_types() -> None:
    """What they know then: scripts/typed_options.py, which `make lint` checks."""
    assert all((ROOT / room / "py.typed").is_file() for room in ("dlm", "samplers", "cache"))
