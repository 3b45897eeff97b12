"""The routes of the server: OpenAI's, the page, and what an operator looks at."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from dlm.engine.result import RowResult
from dlm.errors import DlmError, PromptError, SettingsError
from dlm.pages import rendered
from dlm.serving.answered import DONE, Answer, event, problem
from dlm.serving.asked import Asked, Asking, Chat, Completion
from dlm.serving.engine import BusyError, Engine, OverdueError, Snapshot, StoppingError, Ticket

QUIET = 15.0  # seconds of silence after which a stream gets a comment, so that a client that left is noticed
# The page may load nothing, and talk to nobody but this server.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Told = tuple[int, Snapshot | RowResult | Exception]


@dataclass(frozen=True)
class Limits:
    """What a server lets through.

    Attributes:
        seconds: longest that a request may take.
        bytes: largest body.
        keys: API keys, one of which a request must bear; none: everybody may ask.
        hosts: names that the server may be called by; None: any. Pages of others cannot reach it by a name of theirs.
        grace: seconds that running requests are given when the server is stopped.
    """

    seconds: float = 600.0
    bytes: int = 1_000_000
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
    grace: float = 30.0


class TooLargeError(DlmError):
    """A body beyond the limit."""


def application(engine: Engine, asking: Asking, limits: Limits) -> FastAPI:
    """The server's application; the engine ends with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.stop, limits.grace)

    app = FastAPI(title="dlm", lifespan=lifespan, docs_url=None, redoc_url=None)
    serving = Serving(engine, asking, limits)

    @app.middleware("http")
    async def guarded(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = serving.refusal(request)
        return await follow(request) if refused is None else refused

    @app.exception_handler(HTTPException)
    async def nowhere(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path[:100]}: {error.detail}"
        return JSONResponse(problem(said, "invalid_request_error"), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return _failure(error)

    @app.post("/v1/completions", openapi_extra=_body(Completion))
    async def completions(request: Request) -> Response:
        return await serving.answer(request, Completion)

    @app.post("/v1/chat/completions", openapi_extra=_body(Chat))
    async def chats(request: Request) -> Response:
        return await serving.answer(request, Chat)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [serving.card]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        found = name == serving.card["id"]
        missing = problem(
            f"no model {name[:100]!r} here: it is {serving.card['id']}", "invalid_request_error", "model_not_found"
        )
        return JSONResponse(serving.card if found else missing, 200 if found else 404)

    @app.get("/v1/settings")
    async def settings() -> dict[str, Any]:
        return await asyncio.to_thread(serving.settings)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok" if engine.alive else "stopping"}, 200 if engine.alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(serving.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def home() -> Response:
        return Response(rendered("dlm.serving", "page.html"), media_type="text/html", headers=PAGE_HEADERS)

    return app


class Serving:
    """What the routes have in common."""

    def __init__(self, engine: Engine, asking: Asking, limits: Limits) -> None:
        self.engine, self.asking, self.limits = engine, asking, limits
        self.card: dict[str, Any] = {
            "id": engine.model.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "dlm",
        }
        self.registry = CollectorRegistry()
        self.registry.register(_Figures(engine))

    def settings(self) -> dict[str, Any]:
        """What a request may set, the defaults of this server, and what its model is."""
        asking, about = self.asking, self.engine.model.description
        return {
            "model": self.card["id"],
            "chat": bool(getattr(self.engine.model.tokenizer, "chat_template", None)),
            "context": about.context_length,
            "mask_id": about.mask_id,
            "end_ids": list(about.eos_ids),
            "max_tokens": {"default": asking.new, "most": asking.most},
            "started_with": asking.overrides,
            "chosen": asking.chosen(),
            "groups": asking.known(),
        }

    def refusal(self, request: Request) -> Response | None:
        """Why a request is not even looked at; None: it is."""
        host = request.headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.limits.hosts is not None and name not in self.limits.hosts:
            said = f"this server is not called {name[:100]!r}: start it with allow_hosts=[{name[:100]}]"
            return JSONResponse(problem(said, "invalid_request_error"), 421)
        if self.limits.keys and request.url.path not in ("/", "/health"):
            kind, _, key = request.headers.get("authorization", "").partition(" ")
            known = [hmac.compare_digest(key.encode(), each.encode()) for each in self.limits.keys]
            if kind.lower() != "bearer" or not any(known):
                wanted = "give an API key of this server: Authorization: Bearer KEY"
                body = problem(wanted, "authentication_error", "invalid_api_key")
                return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
        return None

    async def answer(self, request: Request, kind: type[Completion] | type[Chat]) -> Response:
        """Decode what a request asks for."""
        try:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise SettingsError("the body is JSON: send it with Content-Type: application/json")
            asked = await asyncio.to_thread(self.asking.read, kind, await self._body(request))
            named = asked.body.model
            if named not in (None, "", "default", self.card["id"]):
                said = f"no model {named[:100]!r} here: it is {self.card['id']}"
                return JSONResponse(problem(said, "invalid_request_error", "model_not_found"), 404)
            waiter = Waiter(self.engine, asked, self.limits.seconds)
        except DlmError as error:
            return _failure(error)
        if asked.body.stream:
            return StreamingResponse(
                self._streamed(asked, waiter), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )
        return await self._whole(request, asked, waiter)

    async def _body(self, request: Request) -> bytes:
        raw = bytearray()
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for piece in request.stream():
                    raw += piece
                    if len(raw) > self.limits.bytes:
                        raise TooLargeError(f"the body is larger than {self.limits.bytes} bytes")
        except TimeoutError:
            raise OverdueError("the body took longer to arrive than a request may take here") from None
        return bytes(raw)

    async def _whole(self, request: Request, asked: Asked, waiter: Waiter) -> Response:
        """All at once; a client that leaves frees its rows."""

        async def collected() -> Response:
            answer = Answer(self.engine.model, asked)
            async for choice, told in waiter.told():
                if isinstance(told, Exception):
                    return _failure(told)
                if isinstance(told, RowResult):
                    answer.ended(choice, told)
            return JSONResponse(answer.whole())

        async def left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        work, leaving = asyncio.create_task(collected()), asyncio.create_task(left())
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else Response(status_code=499)
        finally:
            waiter.close()
            work.cancel()
            leaving.cancel()

    async def _streamed(self, asked: Asked, waiter: Waiter) -> AsyncIterator[bytes]:
        """As it comes to be. A stream that breaks off ends with an error, never as if it were whole."""
        answer, options = Answer(self.engine.model, asked), asked.body.stream_options
        try:
            for choice in range(len(asked.jobs)):
                yield event(answer.opening(choice))
            async for choice, told in waiter.told(QUIET):
                if told is None:
                    yield b": still decoding\n\n"
                    continue
                if isinstance(told, Exception):
                    yield event(_said(told)[0])
                    return
                for chunk in (
                    answer.ended(choice, told) if isinstance(told, RowResult) else answer.stepped(choice, told)
                ):
                    yield event(chunk)
            if options is not None and options.include_usage:
                yield event(answer.last())
            yield DONE
        finally:
            waiter.close()


class Waiter:
    """Who waits for the rows of a request, on the event loop."""

    def __init__(self, engine: Engine, asked: Asked, seconds: float) -> None:
        self._queue: asyncio.Queue[Told] = asyncio.Queue()
        loop, due = asyncio.get_running_loop(), time.monotonic() + seconds

        def telling(choice: int) -> Callable[[Snapshot | RowResult | Exception], None]:
            def tell(what: Snapshot | RowResult | Exception) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._queue.put_nowait, (choice, what))

            return tell

        self.tickets = [
            Ticket(job, asked.parts, telling(choice), due, asked.body.stream) for choice, job in enumerate(asked.jobs)
        ]
        self._left = set(range(len(self.tickets)))
        engine.submit(self.tickets)

    async def told(self, quiet: float | None = None) -> AsyncIterator[tuple[int, Any]]:
        """What is told of each row, until all are done; after ``quiet`` seconds of silence None."""
        while self._left:
            try:
                choice, what = await asyncio.wait_for(self._queue.get(), quiet)
            except TimeoutError:
                yield -1, None
                continue
            if choice not in self._left:
                continue
            if not isinstance(what, Snapshot):
                self._left.discard(choice)
            yield choice, what

    def leave(self, choice: int) -> None:
        """Nobody waits for this row any more."""
        self.tickets[choice].gone = True
        self._left.discard(choice)

    def close(self) -> None:
        """Nor for any of them."""
        for choice in list(self._left):
            self.leave(choice)


def _said(error: Exception) -> tuple[dict[str, Any], int]:
    """An error as a body and a status."""
    statuses = {
        BusyError: 429,
        StoppingError: 503,
        OverdueError: 504,
        TooLargeError: 413,
        PromptError: 400,
        SettingsError: 400,
    }
    status = next((status for kind, status in statuses.items() if isinstance(error, kind)), 500)
    kind = {429: "rate_limit_error", 400: "invalid_request_error", 413: "invalid_request_error"}.get(
        status, "server_error"
    )
    known = isinstance(error, DlmError)
    return problem(str(error) if known else f"a fault of the server: {type(error).__name__}", kind), status


def _failure(error: Exception) -> Response:
    body, status = _said(error)
    return JSONResponse(body, status, {"Retry-After": "1"} if status in (429, 503) else None)


def _body(kind: type[Completion] | type[Chat]) -> dict[str, Any]:
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs", {})
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema | {"$defs": inner}}}}}


class _Figures(Collector):
    """The engine's counters, for Prometheus."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterable[Metric]:
        engine, figures = self.engine, self.engine.figures
        yield GaugeMetricFamily("dlm_queue_rows", "rows that wait for a place", engine.queued)
        yield GaugeMetricFamily("dlm_busy_rows", "rows that are being decoded", engine.busy)
        yield CounterMetricFamily("dlm_forwards", "forwards of batches", figures.forwards)
        yield CounterMetricFamily("dlm_tokens", "tokens of finished answers", figures.tokens)
        yield CounterMetricFamily("dlm_batches_halved", "batches that did not fit into memory", figures.halved)
        for name, label, values in (("dlm_rows", "outcome", figures.rows), ("dlm_seconds", "part", figures.seconds)):
            family = CounterMetricFamily(
                name, "rows" if label == "outcome" else "seconds of rows' shares", labels=[label]
            )
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
