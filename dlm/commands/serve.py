"""``dlm serve``: an OpenAI-compatible server and a page."""

from __future__ import annotations

import sys
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
    check_counts(config, "port", least=0)
    host, keys = str(config["host"]), _keys(config["api_keys"])
    with telling(parts.model_config):
        model = parts.load_model()
    most = config["most_new_tokens"] or model.description.context_length
    asking = Asking(model, overrides, parts.max_new_tokens, most)
    own = host in LOOPBACK or config["allow_hosts"]
    hosts = (*LOOPBACK, host, *map(str, config["allow_hosts"])) if own else None
    limits = Limits(config["time_limit"], config["body_limit"], keys, hosts, config["grace"])
    app = application(Engine(model, parts.batch_size, config["waiting"]), asking, limits)
    how = uvicorn.Config(app, host, config["port"], log_level="warning", timeout_graceful_shutdown=config["grace"])
    if host not in LOOPBACK and not keys:
        print("dlm: anybody who reaches this machine may ask; api_keys=FILE asks for a key", file=sys.stderr)
    Thread(target=asking.known, daemon=True).start()  # every choice is composed once: better before it is asked for
    server = _telling_server(model.name)(how)
    server.run()
    return 0 if server.started else 2


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


def _telling_server(name: str) -> Any:
    """A server that says where it is once it can be reached."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            for socket in (socket for each in self.servers for socket in each.sockets):
                host, port = socket.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                print(visible(f"dlm: {name} answers at http://{shown}:{port}/ (Ctrl+C stops it)"), flush=True)

    return Server
