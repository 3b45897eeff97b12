"""``dlm serve`` refuses at its start what could never be served, in a sentence."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dlm.cli import main
from dlm.commands.serve import LOOPBACK, _hosts

WRONG = [
    (["port=70000"], "port must be from 0 to 65535, got 70000"),
    (["port=abc"], "port must be from 0 to 65535, got 'abc'"),
    (["host=nowhere.invalid"], "host=nowhere.invalid port=8000"),
    (["allow_hosts=null"], "allow_hosts is a list of names"),
    (["allow_hosts=foo"], "allow_hosts is a list of names"),
    (["port=0", "most_new_tokens=abc"], "most_new_tokens must be a whole number"),
    (["port=0", "most_new_tokens=-5"], "most_new_tokens must be a whole number of at least 1"),
    (["port=0", "most_new_tokens=10"], "max_new_tokens=128 is more than any request may have, 10"),
    (["port=0", "max_new_tokens=100000"], "max_new_tokens=100000 is more than any request may have, 512"),
    (["waiting=0"], "waiting must be a whole number of at least 1"),
    (["api_keys=/nowhere"], "api_keys=/nowhere cannot be read"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_could_never_be_served(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", f"port={port}"]) == 2
    assert f"port={port}: Address already in use" in capsys.readouterr().err
    (tmp_path / "keys").write_text("\n \n")
    assert main(["serve", f"api_keys={tmp_path}/keys"]) == 2
    assert "holds no key" in capsys.readouterr().err


def test_names_are_compared_in_small_letters() -> None:
    assert _hosts({"host": "0.0.0.0", "allow_hosts": ["MyBox.Local"]}) == (*LOOPBACK, "0.0.0.0", "mybox.local")
    assert _hosts({"host": "0.0.0.0", "allow_hosts": []}) is None


# Loads for ever, all the time in a kernel.
LOADING = """
import sys, threading, torch
import dlm, dlm.models.loading
x = torch.randn(1500, 1500)
def load(name_or_path: str, **settings) -> dlm.LanguageModel:
    threading.Timer(0.3, lambda: print("loading", flush=True)).start()
    while True: x @ x
dlm.models.loading.load = dlm.models.load = dlm.load = load
from dlm.cli import main
sys.argv = ["dlm", "serve", "port=0"]
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_loads_can_be_stopped(number: signal.Signals) -> None:
    """The thread that loads is in the middle of a kernel: Python, ending as ever, would abort or hang."""
    with subprocess.Popen([sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loading\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    interrupted = number == signal.SIGINT
    assert said.decode() == ("dlm: interrupted\n" if interrupted else "dlm: ended by a signal\n")
    assert process.returncode == (130 if interrupted else 143)
