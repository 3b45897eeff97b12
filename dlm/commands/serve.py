"""``dlm serve``: an OpenAI-compatible server and a page."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Thread
from typing import Any

from dlm.commands.common import command
from dlm.configuration import check_counts, compose_config, parts_of
from dlm.errors import SettingsError
from dlm.evaluation.progress import telling
from dlm.words import visible

HELP = """dlm serve: an OpenAI-compatible server, with a page that shows the canvas fill.

usage: dlm serve [key=value ...]

  http://127.0.0.1:8000/                      the page
  http://127.0.0.1:8000/v1/chat/completions   and /v1/completions, /v1/models: for any client of OpenAI's
  /v1/settings  /openapi.json  /health  /metrics

settings:
  host=127.0.0.1 port=8000   0.0.0.0: reachable from elsewhere, then with api_keys=FILE (a key a line)
  allow_hosts=[NAME]       further names that the server may be called by (loopback is called by its own alone)
  max_new_tokens=128       positions to fill where a request does not say; most_new_tokens=N: at most that many
  batch_size=8             rows decoded together; requests join and leave between two steps
  waiting=256              rows that may wait for a place; beyond it requests are refused with 429
  time_limit=600           seconds that a request may take
  body_limit=1000000       bytes of a request
  grace=30                 seconds that running requests are given when the server is stopped

A request may name parts of its own, {{"sampler": {{"name": "topk", "tokens_per_step": 4}}}}, and so for blocks, cache
and drafting; what is given here holds where it does not. docs/serve.md has all of it. Needs pip install 'dlm[serve]'.

groups:
{groups}

examples:
  dlm serve
  dlm serve model=llada-8b-instruct cache=dual batch_size=16 host=0.0.0.0 api_keys=keys.txt
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{{"prompt": "47+85="}}'
"""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


@command("serve", HELP, ("api_keys",))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    try:
        import uvicorn

        from dlm.serving.app import Limits, application
    except ModuleNotFoundError as error:
        raise SettingsError(f"dlm serve needs the package {error.name}: pip install 'dlm[serve]'") from error
    from dlm.serving.asked import Asking
    from dlm.serving.engine import Engine

    parts = parts_of(compose_config("serve", overrides))
    config = {**parts.config, **texts}
    check_counts(config, "batch_size", "max_new_tokens", "waiting", "time_limit", "body_limit", "grace")
    hosts, keys = _hosts(config), _keys(config["api_keys"])
    with telling(parts.model_config), closing(_bound(config)) as socket, ExitStack() as end:
        engine = Engine(parts.load_model, parts.batch_size, config["waiting"])
        end.callback(engine.stop, 0.0)
        model = engine.model
        most = _most(config, model.description.context_length)
        asking = Asking(model, overrides, parts.max_new_tokens, most, parts.seed)
        limits = Limits(config["time_limit"], config["body_limit"], keys, hosts, config["grace"])
        app = application(engine, asking, limits)
        how = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=config["grace"])
        if config["host"] not in LOOPBACK and not keys:
            print("dlm: anybody who reaches this machine may ask; api_keys=FILE asks for a key", file=sys.stderr)
        # Choices are composed once: better before one is asked for.
        Thread(target=asking.known, name="dlm-choices", daemon=True).start()
        host, port = socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(visible(f"dlm: {model.name} answers at http://{shown}:{port}/ (Ctrl+C stops it)"), flush=True)
        uvicorn.Server(how).run(sockets=[socket])
    return 0


def _bound(config: dict[str, Any]) -> socket.socket:
    """The socket that is listened on. Raises SettingsError: the port is none, or taken, or the host is not here."""
    host, port = str(config["host"]), config["port"]
    if type(port) is not int or not 0 <= port <= 65535:
        raise SettingsError(f"port must be from 0 to 65535, got {port!r}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"host={host} port={port}: {error.strerror or error}; name others (port=0: any)") from error


def _hosts(config: dict[str, Any]) -> tuple[str, ...] | None:
    """The names that the server may be called by; None: any. Raises SettingsError: no list of names."""
    host, more = str(config["host"]), config["allow_hosts"]
    if not isinstance(more, list) or not all(isinstance(name, str) for name in more):
        raise SettingsError(f"allow_hosts is a list of names, allow_hosts=[NAME], got {more!r}")
    return tuple(name.lower() for name in (*LOOPBACK, host, *more)) if more or host in LOOPBACK else None


def _most(config: dict[str, Any], context: int) -> int:
    """The most positions of a request. Raises SettingsError: none can be, or fewer than a request gets unasked."""
    if config["most_new_tokens"] is not None:
        check_counts(config, "most_new_tokens")
    most = min(context, config["most_new_tokens"] or context)
    if config["max_new_tokens"] > most:
        raise SettingsError(
            f"max_new_tokens={config['max_new_tokens']} is more than any request may have, {most}: lower it"
            f" (the model's context is {context})"
        )
    return int(most)


def _keys(file: Any) -> tuple[str, ...]:
    """The keys of a file. Raises SettingsError: it cannot be read, or holds none."""
    if file is None or file == "null":
        return ()
    try:
        lines = Path(str(file)).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"api_keys={file} cannot be read: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise SettingsError(f"api_keys={file} holds no key: write one a line")
    return keys
