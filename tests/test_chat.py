"""``dlm chat``: lines from a pipe and from a terminal, with a model of this process and with a server."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dlm
import samplers
from dlm.cli import main
from tests.serving.conftest import serving

COPY, REVERSE = 'Copy the list: ["Anna", "Bob", "Cleo"]', 'Reverse the list: ["Anna", "Bob", "Cleo"]'
COPIED = '["Anna", "Bob", "Cleo"]'


def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, *words: str) -> Any:
    """The status, the answers and the notes of a chat."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    status = main(["chat", "max_new_tokens=32", *words])
    out, err = capsys.readouterr()
    return status, out, err


def asked(*messages: dict[str, str], sampler: Any = None) -> str:
    found = dlm.generate("tiny", [list(messages)], sampler=sampler or samplers.threshold(), max_new_tokens=32)
    return found[0].text


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_a_chat_has_several_turns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = asked(said("system", "Be brief."), said("user", COPY))
    turns = [said("system", "Be brief."), said("user", COPY), said("assistant", first), said("user", REVERSE)]
    status, out, err = chat(monkeypatch, capsys, f"{COPY}\n\n{REVERSE}\n", "system=Be brief.")
    assert (status, out, err) == (0, f"{first}\n{asked(*turns)}\n", "")


def test_commands_change_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chat.json"
    lines = [
        "/sampler topk tokens_per_step=4", COPY, "/retry", "/undo", "/cache dual", COPY, f"/save {file}", "/clear",
        f"/load {file}", "/sampler", "/system Be brief.", "/system", "/help", "/quit", COPY,
    ]  # fmt: skip
    status, out, err = chat(monkeypatch, capsys, "\n".join(lines))
    topk = asked(said("user", COPY), sampler=samplers.topk(tokens_per_step=4))
    assert status == 0
    assert out.splitlines()[:2] == [topk, topk]
    assert len(out.splitlines()) == 3
    assert json.loads(file.read_text()) == {"messages": [said("user", COPY), said("assistant", out.splitlines()[2])]}
    for note in ("sampler is topk tokens_per_step=4", "0 questions in the chat", "1 question in the chat", "/retry"):
        assert note in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sampelr topk", "unknown command '/sampelr' (did you mean /sampler?); known are /sampler, /blocks"),
        ("/sampler tpok", "unknown sampler 'tpok' (did you mean topk?)"),
        ("/sampler topk 4", "'4' is not key=value: /sampler NAME key=value"),
        ("/sampler topk threshold=2", "unknown setting 'sampler.threshold'"),
        ("/cache duel", "(did you mean dual?)"),
        ("/retry", "there is no question to ask again"),
        ("/undo", "there is nothing to take back"),
        ("/save", "a file is wanted: /save FILE"),
        ("/save .", "exists: give another name"),
        ("/load nowhere.json", "cannot be read as a saved chat"),
        ("a" * 5000, "more than the model's context"),
    ],
)
def test_what_goes_wrong_leaves_the_chat(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = chat(monkeypatch, capsys, f"{line}\n{COPY}\n")
    assert (status, out) == (1, asked(said("user", COPY)) + "\n")
    assert message in err


@pytest.mark.parametrize("text", ['{"messages": [{"role": "user", "content": "a"}]}', "[]", '{"messages": [3]}', "{"])
def test_only_a_saved_chat_is_loaded(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat.json").write_text(text)
    status, _, err = chat(monkeypatch, capsys, f"/load {tmp_path / 'chat.json'}\n")
    assert status == 1
    assert "saved chat" in err


def test_a_model_without_a_template_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = dlm.load("tiny")
    assert plain.tokenizer is not None
    plain.tokenizer.chat_template = None
    monkeypatch.setattr("dlm.configuration.Composed.load_model", lambda self: plain)
    status, out, err = chat(monkeypatch, capsys, COPY)
    assert (status, out) == (2, "")
    assert "tiny has no chat template" in err


def test_a_server_gives_what_the_model_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"/sampler topk tokens_per_step=4\n{COPY}\n{REVERSE}\n/sampler wino\n{COPY}\n"
    here = chat(monkeypatch, capsys, text)
    with serving(keys=("secret",)) as served:
        there = chat(monkeypatch, capsys, text, f"url={served.url}/v1", "api_key=secret")
        assert there == here
        for words, message in (
            (["api_key=wrong"], "give an API key of this server"),
            (["api_key=secret", "model=tiny"], "model is the server's own: leave it out beside url="),
            (["api_key=secret", "sampler.threshold=0.8"], "need its name: sampler=NAME"),
        ):
            status, _, err = chat(monkeypatch, capsys, COPY, f"url={served.url}", *words)
            assert status == 2
            assert message in err
    for url, message in ((served.url, "refused"), ("nowhere", "is no address"), ("http://[", "is no address")):
        status, _, err = chat(monkeypatch, capsys, COPY, f"url={url}")
        assert status == 2
        assert message in err


class Terminal:
    """``dlm chat`` on a terminal of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        own, theirs = pty.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(folder), "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        command = [sys.executable, "-m", "dlm", "chat", *words]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self.own, self.text, self.passed = own, "", ""

    def type(self, text: str) -> None:
        os.write(self.own, text.encode())

    def until(self, text: str, seconds: float = 60) -> None:
        """Wait for a text; what is shown before it is ``passed``."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self.own], [], [], 0.1)[0]:
                self.text += os.read(self.own, 10000).decode(errors="replace")
        self.passed, _, self.text = self.text.partition(text)


def test_a_terminal_shows_the_canvas_and_an_answer_can_be_stopped(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "max_new_tokens=300", "sampler=topk")
    try:
        terminal.until("> ")
        terminal.type(f"{COPY}\n")
        terminal.until("░")  # half filled
        terminal.type("\x03")
        terminal.until("stopped; the chat is as it was")
        terminal.until("> ")
        terminal.type("/sampler threshold\n")
        terminal.until("sampler is threshold")
        terminal.until("> ")
        terminal.type("/retry\n")
        terminal.until("1 answer,")
        assert COPIED in terminal.passed
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
    history = tmp_path / "dlm" / "chat_history"
    assert "/retry" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
