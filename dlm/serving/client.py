"""A server's answers as the events that :func:`dlm.stream` gives, over the standard library's HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from dlm.api import Generation, StreamStep
from dlm.engine.result import Counts
from dlm.errors import ServerError, SettingsError

SECONDS = 60.0  # of silence; a stream of ``dlm serve`` is never silent for so long
MOST = 10_000_000  # bytes of a reply that is read at once


class Client:
    """A ``dlm serve`` somewhere.

    Args:
        url: ``http://HOST:PORT``.
        key: the API key it wants; None: none.

    Attributes:
        name: of its model.
        chat: whether that has a chat template.
        model: as much of a model as :func:`dlm.display.watch` looks at: tokens become the texts that came with them.

    Raises:
        SettingsError: the url is none.
        ServerError: the server cannot be reached, refuses the key, or is another one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        try:
            self._place = urlsplit(url)
            self._port = self._place.port
        except ValueError as error:
            raise SettingsError(f"url={url} is no address: {error}") from error
        if self._place.scheme not in ("http", "https") or not self._place.hostname:
            raise SettingsError(f"url={url} is no address of a server: http://HOST:PORT")
        self._key, self._pieces = key, dict[int, str]()
        with self._reply("GET", "/v1/settings") as reply:
            about = json.loads(reply.read(MOST))
            self.name, self.chat, self._mask = str(about["model"]), bool(about["chat"]), int(about["mask_id"])
            ends = tuple(about["end_ids"])
        ids = SimpleNamespace(mask_id=self._mask, eos_ids=ends)
        self.model: Any = SimpleNamespace(description=ids, tokenizer=self, decode=self._decode)

    def events(
        self, messages: Sequence[Mapping[str, str]], **body: Any
    ) -> Iterator[StreamStep | tuple[int, Generation]]:
        """The answer to a chat, step by step; a reader who leaves frees its row. ``body``: what else is asked. Raises
        ServerError: the server says no, or breaks off."""
        asked = {"messages": messages, "stream": True, "stream_options": {"canvas": True}, **body}
        text, canvas, counts, ended = "", list[int](), None, False
        with self._reply("POST", "/v1/chat/completions", asked) as reply:
            for line in reply:
                if not line.startswith(b"data: "):
                    continue
                if ended := line.strip() == b"data: [DONE]":
                    break
                told = json.loads(line[6:])
                if "error" in told:
                    raise ServerError(f"the server: {told['error']['message']}")
                text += "".join(choice["delta"].get("content") or "" for choice in told["choices"])
                if (seen := told.get("canvas")) is not None:
                    yield self._step(seen, canvas)
                    counts = seen.get("counts", counts)
            if not ended or counts is None:
                raise ServerError("the server broke off in the middle of the answer")
            known = {field.name: counts[field.name] for field in fields(Counts) if field.name in counts}
        yield 0, Generation(text, canvas, [], "filled", Counts(**known))

    def _step(self, seen: Mapping[str, Any], canvas: list[int]) -> StreamStep:
        """Take a step's changes into the canvas."""
        if len(canvas) != seen["length"]:
            canvas[:] = [self._mask] * min(int(seen["length"]), MOST)
        self._pieces |= {token: str(piece) for _, token, piece, _ in seen["set"]}
        new = {at: token for at, token, *_ in seen["set"]}
        for at, token in [*new.items(), *((at, self._mask) for at in seen["masked"])]:
            canvas[at] = token
        return StreamStep(0, seen["step"], new, list(canvas), list(canvas), "", "", "counts" in seen)

    def _decode(self, tokens: Sequence[int]) -> str:
        return "".join(self._pieces.get(token, "") for token in tokens)

    @contextmanager
    def _reply(self, method: str, path: str, body: Any = None) -> Iterator[HTTPResponse]:
        """What the server replies. Raises ServerError: it does not, or with anything but what was asked for."""
        place = self._place
        kind = HTTPSConnection if place.scheme == "https" else HTTPConnection
        connection = kind(str(place.hostname), self._port, timeout=SECONDS)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            path = place.path.rstrip("/").removesuffix("/v1") + path
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            if reply.status != 200:
                raise ServerError(f"the server: {_problem(reply)}")
            yield reply
        except (OSError, HTTPException) as error:
            raise ServerError(f"{place.scheme}://{place.netloc}: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ServerError(f"{place.scheme}://{place.netloc} answers unlike `dlm serve`: {error!r}") from error
        finally:
            connection.close()


def _problem(reply: HTTPResponse) -> str:
    """What a reply says is wrong."""
    try:
        return str(json.loads(reply.read(MOST))["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{reply.status} {reply.reason}"
