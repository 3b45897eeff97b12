"""``dlm eval`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlm.cli import main
from dlm.configuration import Composed
from dlm.evaluation.progress import Board
from tests.evaluation.runs import Faulty, ready, tiny
from tests.evaluation.test_store import sample


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Composed, "load_model", lambda self: tiny())


def evaluate(out: Path, *overrides: str) -> int:
    return main(["eval", "task.limit=4", f"out={out}", *overrides])


def test_the_card_says_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a folder, [odd]"
    assert evaluate(out) == 0
    shown = capsys.readouterr().out
    for words in ("waiting_line/copy with threshold", "4 of 4 (4 by this run)", "95 % interval", "forwards",
                  "tokens per forward", "tokens per second", "outside decoding"):  # fmt: skip
        assert words in shown
    assert evaluate(out) == 0
    assert "nothing was asked" in capsys.readouterr().out
    assert len(list(out.glob("waiting_line-copy/threshold-*/samples.jsonl"))) == 1


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path, "json=true", "sampler=topk", "sampler.tokens_per_step=8", "cache=dual") == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert figures["method"] == "topk + dual" and figures["forwards"] == 4 and figures["n"] == figures["decoded"] == 4
    assert Path(figures["folder"]).is_dir() and figures["failures"] == 0
    assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]


def test_the_exit_status_tells_of_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = [set(tiny().encode_chat(i.messages)) for i in ready(tmp_path, "task.limit=4").instances()]
    mark = next(iter(chats[3].difference(*chats[:3])))
    monkeypatch.setattr(Composed, "load_model", lambda self: Faulty(mark, "nan"))
    assert evaluate(tmp_path, "retries=1") == 1
    said = capsys.readouterr()
    assert "1 question has no answer" in said.err and "failures*.jsonl; the same command asks again" in said.err
    assert "1 question has no answer" in said.out
    assert evaluate(tmp_path, "retries=1") == 1
    assert evaluate(tmp_path, "retries=1") == 1
    assert "1 failed too often: retries=N allows more" in capsys.readouterr().err


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path, "json=loud") == 2
    assert evaluate(tmp_path, "task.form=loud") == 2
    assert evaluate(tmp_path) == 0
    (folder,) = tmp_path.glob("*/*")
    capsys.readouterr()
    assert evaluate(folder) == 2
    (folder / "config.json").write_text("{}")
    text = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text("x\n" + text)
    assert evaluate(tmp_path) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("dlm: error: ") for line in said)
    assert "give the folder above it" in said[0] and "samples.jsonl, line 1 is not JSON" in said[1]


def test_help_and_the_composed_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    assert "usage: dlm eval" in capsys.readouterr().out
    assert main(["eval", "--cfg", "job", "task=waiting_line/sort", "out=some where"]) == 0
    shown = capsys.readouterr().out
    assert "name: waiting_line/sort" in shown and "out: some where" in shown and "hydra" not in shown


def test_progress_is_a_line_now_and_then_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("dlm.evaluation.progress.time.monotonic", lambda: now[0])
    with Board("copy", 40) as board:
        for _ in range(30):
            now[0] += 0.5
            board.take(sample("a", score=0.5))
        board.fail()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "dlm: copy: 20 of 40, 10 s left, 2.0/s, score 0.500, 1.00 tokens per forward"
    with Board("copy", 1, quiet=True) as board:
        now[0] += 60
        board.take(sample("a"))
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("dlm.evaluation.progress.DRAW_EVERY", 0.0)
    with Board("copy [odd]", 2) as board:
        board.take(sample("a"))
        board.fail()
    shown = capsys.readouterr().err
    assert "copy" in shown and "1 failed" in shown and "2/2" in shown
