"""The client of ``dlm chat``: a server's events are those of :func:`dlm.stream`; what goes wrong is one sentence."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

import dlm
import samplers
from dlm.errors import ServerError
from dlm.serving.client import Client
from tests.serving.conftest import Served

CHAT = [{"role": "user", "content": 'Shuffle the list: ["Anna", "Bob", "Cleo"]'}]
SETTINGS = b'{"model": "m", "chat": true, "mask_id": 1, "end_ids": [0]}'
CHUNK = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'


@pytest.mark.parametrize("name", ["topk", "wino"])
def test_a_server_streams_what_the_model_does(name: str, served: Served) -> None:
    sampler = getattr(samplers, name)()
    here = list(dlm.stream(served.model, [CHAT], sampler=sampler, max_new_tokens=32, seed=3))
    client = Client(served.url)
    there = list(client.events(CHAT, sampler=name, max_tokens=32, seed=3))
    steps = [event for event in here if not isinstance(event, tuple)]
    told = [event for event in there if not isinstance(event, tuple)]
    assert [event.canvas for event in told[: len(steps)]] == [event.canvas for event in steps]
    ((_, mine), (_, theirs)) = (events[-1] for events in (here, there))  # type: ignore[misc]
    assert (theirs.text, theirs.tokens) == (mine.text, mine.tokens)
    assert theirs.counts.forwards == mine.counts.forwards


def test_who_stops_reading_frees_the_row(served: Served) -> None:
    events = Client(served.url).events(CHAT, sampler="topk", max_tokens=400)
    next(events)
    assert isinstance(events, Generator)
    events.close()
    end = time.monotonic() + 30
    while served.engine.busy:
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def saying(*replies: bytes) -> Iterator[str]:
    """A server that gives these replies, whatever it is asked, and hangs up after each."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for reply in replies:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + reply)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        thread.join(10)
        listening.close()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (CHUNK, "broke off in the middle"),
        (CHUNK + b"data: [DONE]\n\n", "broke off in the middle"),
        (b'data: {"error": {"message": "full"}}\n\n', "the server: full"),
        (b"data: {\n\n", "answers unlike `dlm serve`"),
        (b'data: {"choices": 3}\n\n', "answers unlike `dlm serve`"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(reply: bytes, said: str) -> None:
    with saying(SETTINGS, reply) as url, pytest.raises(ServerError, match=said):
        list(Client(url).events(CHAT))


@pytest.mark.parametrize("reply", [b"<html>", b"[]", b'{"model": "m"}'])
def test_another_server_is_no_dlm_serve(reply: bytes) -> None:
    with saying(reply) as url, pytest.raises(ServerError, match="answers unlike `dlm serve`"):
        Client(url)
