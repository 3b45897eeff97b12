"""A short part of what ``scripts/endurance.py`` tries at length, and that it notices what is broken."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import dlm
from scripts import endurance


@pytest.mark.parametrize(("part", "n"), [("rows", 60), ("drafts", 40), ("fuzz", 80)])
def test_the_promises_hold(
    part: str, n: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    status = endurance.main([part, str(n), "--seed", "7"])
    out = capsys.readouterr().out
    assert status == 0, out
    told = json.loads(out.splitlines()[-1])
    assert told["tried"] >= n
    assert told["broken"] == 0


@pytest.mark.slow
def test_killed_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    assert endurance.main(["kills", "6"]) == 0, capsys.readouterr().out


def test_a_row_that_depends_on_its_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = dlm.generate

    def leaning(model: Any, prompts: Any, **given: Any) -> Any:
        answers = generate(model, prompts, **given)
        if len(prompts) > 1:
            answers[0].tokens[0] += 1
        return answers

    monkeypatch.setattr(dlm, "generate", leaning)
    faults = [fault for count, fault in (next(trial) for trial in [endurance.rows(random.Random(1))] * 8) if count]
    assert faults and all(fault.startswith("rows [0") for fault in faults)
