"""What an editor, a type checker and a notebook show of the package."""

from __future__ import annotations

import subprocess
import sys
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


SNIPPET = """\
import cache, dlm, samplers
samplers.threshold(0.9, temperature=0.5, stop_at_end=True)
dlm.generate("tiny", "hi", sampler="topk", cache=cache.dual)
samplers.threshold(0.9, temprature=0.5)  # Unexpected keyword argument "temprature"
samplers.topk(tokens_per_step="2")  # has incompatible type "str"
cache.dual(evry=3)  # Unexpected keyword argument "evry"
samplers.Threshold(treshold=3)  # Unexpected keyword argument "treshold"
"""


def test_a_type_checker_knows_the_options(tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET, encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "mypy", str(file)], cwd=ROOT, capture_output=True, text=True)
    for number, line in enumerate(SNIPPET.splitlines(), start=1):
        _, marked, error = line.partition("  # ")
        found = [said for said in run.stdout.splitlines() if f"snippet.py:{number}:" in said]
        assert any(error in said for said in found) if marked else not found, run.stdout
    assert all((ROOT / room / "py.typed").is_file() for room in ("dlm", "samplers", "cache"))
