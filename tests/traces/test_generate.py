"""``dlm generate trace=FILE record=...``: what is written, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cache
import dlm
import samplers
from dlm.commands.generate import run
from dlm.errors import SettingsError, StorageError
from dlm.trace import EVERYTHING

PROMPT = 'Copy the list: ["Anna", "Bob"]'


def test_a_trace_file_holds_the_answer_and_the_tokens_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    assert run([f"prompt={PROMPT}", "max_new_tokens=16", f"trace={path}", "format=text", "cache=dual"]) == 0
    text = capsys.readouterr().out.strip()
    (trace,) = dlm.load_traces(path)
    model = dlm.load("tiny")
    (answer,) = dlm.generate(
        model, [PROMPT], sampler=samplers.threshold(0.9), cache=cache.dual(), max_new_tokens=16, record=EVERYTHING
    )  # fmt: skip
    assert answer.text == text == trace.about["text"]
    assert {k: trace.about[k] for k in ("prompt", "model", "sampler", "cache", "seed", "forwards")} == {
        "prompt": PROMPT, "model": "tiny", "sampler": "threshold", "cache": "dual", "seed": 0,
        "forwards": answer.counts.forwards,
    }  # fmt: skip
    assert "drafting" not in trace.about
    assert "".join(trace.pieces[t] for t in trace.canvas[: trace.start]) == PROMPT
    assert set(trace.pieces) == trace.tokens
    assert trace.steps[0].candidates
    assert trace.steps[0].confidence
    assert trace.steps[0].cache is not None


def test_record_alone_is_a_part_of_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([f"prompt={PROMPT}", "max_new_tokens=16", "record=order", "format=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(len(step["positions"]) for step in told["trace"]["steps"]) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["record=[order]"], "nowhere to go"),
        (["record=[steps]", "trace=t.jsonl"], "unknown steps"),
        (["trace=/nowhere/t.jsonl"], "t.jsonl cannot be written .*does not exist"),
        (["trace=/"], "is a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm.configuration.Composed.load_model", lambda self: pytest.fail("loaded a model"))
    with pytest.raises((SettingsError, StorageError), match=message):
        run([f"prompt={PROMPT}", "format=text", *arguments])
