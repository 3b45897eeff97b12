"""A server of the packaged model, on a free port of this machine, in a thread of the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import uvicorn

import dlm
from dlm.serving.app import Limits, application
from dlm.serving.asked import Asking
from dlm.serving.engine import Engine


@dataclass
class Served:
    """A running server."""

    url: str
    model: Any
    engine: Engine

    def client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's own client, as it stands."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=options.pop("api_key", "none"), max_retries=0, **options
        )


@contextmanager
def serving(rows: int = 4, waiting: int = 64, overrides: Any = (), **limits: Any) -> Iterator[Served]:
    """A server while the block runs."""
    model = dlm.load("tiny")
    engine = Engine(model, rows, waiting)
    asking = Asking(model, list(overrides), 32, model.description.context_length, limits.pop("seed", 0))
    app = application(engine, asking, Limits(**({"grace": 5.0} | limits)))
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_config=None, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield Served(f"http://{host}:{port}", model, engine)
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    with serving() as found:
        yield found
