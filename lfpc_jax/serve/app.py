"""The routes: /v1/chat/completions, /v1/models, /health, /metrics, and the page.

Whatever is wrong with a request comes back in OpenAI's form. Requests are read, and their pictures
decoded, in a few threads beside the event loop.
"""

import asyncio
import hmac
import json
import logging
import time
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lfpc_jax.remote.messages import data_url
from lfpc_jax.serve.limits import Gone, Limits, Memory, body_of, share
from lfpc_jax.serve.metrics import CONTENT_TYPE, Metrics
from lfpc_jax.serve.reader import Reader, ReadRequest
from lfpc_jax.serve.refused import Refused
from lfpc_jax.serve.replies import ReplyBuilder
from lfpc_jax.serve.site import Site
from lfpc_jax.serve.worker import Event, Replied, Ticket, Unanswered, Worker

log = logging.getLogger(__name__)

_SLOW = 5.0
"""Seconds that a client has to read a reply, or the end of a stream, beyond what is buffered."""


@dataclass
class Service:
    """What the routes share. `key` is the token that clients show; empty for none."""

    name: str
    reader: Reader
    worker: Worker
    metrics: Metrics
    limits: Limits
    site: Site
    key: str
    hosts: tuple[str, ...]
    """Names that the server may be called by, if there is no token; empty for any."""

    def __post_init__(self) -> None:
        self.memory = Memory(self.limits.memory)
        self.readers = ThreadPoolExecutor(4, "reader")
        self.draining = False
        self.begun = int(time.time())

    # ------------------------------------------------------------------ a chat

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        mode, status = "none", 500
        try:
            if self.draining:
                raise Refused(503, "the server is about to stop", code="draining", wait=5)
            self.worker.check_room()
            with share(self.memory) as own:
                body = await body_of(receive, Headers(scope=scope), self.limits, own)
                begun = time.perf_counter()
                loop = asyncio.get_running_loop()
                reading = loop.run_in_executor(self.readers, self.reader.read, body, own)
                async with self._in_time(), _unless_gone(receive):
                    asked = await reading
                del body
                mode = "looks" if asked.wanted.looks else "chat"
                status = await self._answer(asked, begun, receive, send)
        except Refused as refused:
            status = refused.status
            await _refuse(receive, send, refused)
        except Gone:
            status = 499
        finally:
            self.metrics.requests.labels(str(status), mode).inc()

    async def _answer(self, asked: ReadRequest, begun: float, receive: Receive, send: Send) -> int:
        wanted = asked.wanted
        reply = ReplyBuilder(wanted, asked.request.opening, asked.tokens, self.reader.tokenizer)
        stream = EventStream(send) if wanted.stream else None
        try:
            async with self._in_time(), _unless_gone(receive):
                with self.worker.answering(asked.request) as ticket:
                    await self._follow(ticket, reply, stream, begun)
            if stream is None:
                await _send(JSONResponse(reply.whole()), receive, send)
            else:
                await stream.end(reply)
        except Refused as refused:
            await _failed(refused, stream)
            return refused.status
        finally:
            self.metrics.whole.observe(time.perf_counter() - begun)
            usage = reply.usage()
            self.metrics.prompt_tokens.inc(usage["prompt_tokens"])
            self.metrics.completion_tokens.inc(usage["completion_tokens"])
        return 200

    async def _follow(
        self, ticket: Ticket, reply: ReplyBuilder, stream: "EventStream | None", begun: float
    ) -> None:
        """Adds events to the reply until it is over, and sends them on."""
        first = True
        while not reply.over:
            event = await _with_image(await ticket.events.get(), self.readers)
            if first and not isinstance(event, Unanswered):
                first = False
                self.metrics.first.observe(time.perf_counter() - begun)
                if stream is not None:
                    await stream.begin(reply)
            if isinstance(event, Replied) and event.image:
                self.metrics.crops.inc()
            for chunk in reply.add(event):
                if stream is not None:
                    await stream.send(chunk)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield
        except TimeoutError:
            raise Refused(
                504,
                f"the request took over {self.limits.seconds:g} s and was given up",
                code="time_limit",
            ) from None

    # ------------------------------------------------------------------ other routes

    async def models(self, request: HTTPRequest) -> Response:
        data = [self._model(name) for name in self.reader.models]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: HTTPRequest) -> Response:
        name = request.path_params["name"]
        if name not in self.reader.models:
            raise Refused(404, f"there is no model {name!r:.80}", code="model_not_found")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        looks = {"looks": self.reader.models[name], "context": self.reader.context}
        made = {"object": "model", "created": self.begun, "owned_by": "lfpc_jax"}
        return {"id": name, **made, "lfpc": looks}

    async def health(self, request: HTTPRequest) -> Response:
        state = "draining" if self.draining else "failing" if self.worker.failing else "ok"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    async def told(self, request: HTTPRequest) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def page(self, request: HTTPRequest) -> Response:
        return self.site.page()

    async def example(self, request: HTTPRequest) -> Response:
        number = request.path_params["number"]
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self.readers, self.site.example, number)
        if found is None:
            raise Refused(404, f"there is no example {number}", code="not_found")
        return found


def app_of(service: Service) -> ASGIApp:
    routes = [
        Route("/", service.page),
        Route("/examples/{number:int}", service.example),
        Route("/health", service.health),
        Route("/metrics", service.told),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.model),
        Route("/v1/chat/completions", _Endpoint(service), methods=["POST"]),
    ]
    handlers: Mapping[Any, Any] = {Refused: _refused, HTTPException: _http, Exception: _broken}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), service)


@dataclass
class _Endpoint:
    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.service.chat(scope, receive, send)


@dataclass
class Guard:
    """Lets nobody in without the token, except to /health."""

    app: ASGIApp
    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = None if scope["path"] == "/health" else self._refused(Headers(scope=scope))
        if refused is None:
            await self.app(scope, receive, send)
        else:
            await _refuse(receive, send, refused)

    def _refused(self, headers: Headers) -> Refused | None:
        service = self.service
        if service.key and not _shows(headers.get("authorization", ""), service.key):
            return Refused(
                401,
                "no valid token; send it as 'Authorization: Bearer TOKEN'",
                code="invalid_api_key",
            )
        if service.hosts and _host(headers.get("host", "")) not in service.hosts:
            return Refused(403, "this server is not called by that name", code="host_not_allowed")
        return None


def _shows(header: str, key: str) -> bool:
    """Whether a header shows the token: as a bearer, or as the password that a browser asks for."""
    kind, _, shown = header.partition(" ")
    if kind.lower() == "basic":
        with suppress(NotBase64, ValueError):
            shown = b64decode(shown.strip(), validate=True).decode().partition(":")[2]
            return hmac.compare_digest(shown.encode(), key.encode())
        return False
    # Headers are decoded byte by byte.
    same = hmac.compare_digest(shown.strip().encode("latin-1"), key.encode())
    return kind.lower() == "bearer" and same


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0].removeprefix("[")
    return header.rpartition(":")[0] or header


class EventStream:
    """Server-sent events."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def begin(self, reply: ReplyBuilder) -> None:
        self.begun = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in reply.first():
            await self.send(chunk)

    async def send(self, chunk: Any) -> None:
        text = chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False)
        body = f"data: {text}\n\n".encode("utf-8", "replace")
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, reply: ReplyBuilder) -> None:
        await self._last(reply.last())

    async def failed(self, refused: Refused) -> None:
        await self._last([refused.body])

    async def _last(self, chunks: Iterable[Any]) -> None:
        """Ends the stream. A client that does not read is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SLOW):
                for chunk in chunks:
                    await self.send(chunk)
                await self.send("[DONE]")
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _failed(refused: Refused, stream: EventStream | None) -> None:
    """Sends a failure as an event of a stream that has begun. Before that it is raised, and the
    reply's status says it."""
    if stream is None or not stream.begun:
        raise refused
    await stream.failed(refused)


async def _with_image(event: Event, readers: ThreadPoolExecutor) -> Event:
    if not isinstance(event, Replied) or event.crop is None:
        return event
    loop = asyncio.get_running_loop()
    return replace(event, image=await loop.run_in_executor(readers, data_url, event.crop))


@asynccontextmanager
async def _unless_gone(receive: Receive) -> AsyncIterator[None]:
    """Leaves the block with `Gone` once the client has closed the connection."""
    here = asyncio.current_task()
    assert here is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        here.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and here.uncancel() == 0:
            raise Gone from None
        raise
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _refuse(receive: Receive, send: Send, refused: Refused) -> None:
    headers = refused.headers
    if refused.status == 401:
        headers = {**headers, "www-authenticate": 'Basic realm="lfpc_jax", charset="UTF-8"'}
    await _send(JSONResponse(refused.body, refused.status, headers), receive, send)


async def _send(response: Response, receive: Receive, send: Send) -> None:
    """A client that does not read is not waited for."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SLOW):
            await response({"type": "http"}, receive, send)


async def _refused(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error.body, error.status, error.headers)


async def _http(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    why = Refused(error.status_code, error.detail, code=error.detail.lower().replace(" ", "_"))
    return JSONResponse(why.body, why.status, dict(error.headers or {}))


async def _broken(request: HTTPRequest, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    why = Refused(500, "the server failed; its log says why", code="internal_error")
    return JSONResponse(why.body, why.status)
