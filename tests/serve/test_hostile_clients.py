"""Clients that send too much, too slowly, nonsense, or nothing: each is told, none is waited for,
and the others are answered."""

import asyncio
import json
import resource
import socket
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lfpc_jax.serve.limits import Limits
from lfpc_jax.serve.worker import Worker
from support.served import data_url, message, png, served

pytestmark = pytest.mark.compiles

BODY = {"model": "small", "messages": [message("Which colour is it?", data_url(png()))]}
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
POST += b"Connection: close\r\n"  # once it has answered
TIGHT = Limits(body_bytes=1 << 20, body_seconds=0.6, idle_seconds=0.6, memory=64 << 20)
LONG = "x" * (1 << 16)


def said(server, *pieces, wait=20.0) -> bytes:
    """What comes back for raw bytes, until the server closes or says nothing for a while."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=wait)) as connection:
        with suppress(ConnectionError):  # it may be closed once it has answered
            for piece in pieces:
                connection.sendall(piece)
        reply = b""
        with suppress(TimeoutError, ConnectionError):
            while more := connection.recv(1 << 16):
                reply += more
        return reply


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def status(reply: bytes) -> int:
    return int(reply.split()[1])


def answers(server):
    assert server.ask(BODY)[0] == 200
    server.waits_until(lambda: server.service.memory.held == 0)
    server.waits_until(lambda: not server.service.worker.in_hand)


# ------------------------------------------------------------------ who may ask


@pytest.mark.parametrize("path", [
    "/", "/metrics", "/v1/models", "/v1/models/small", "/examples/0", "/v1/chat/completions",
    "/nothing", "/health/", "/HEALTH",
])  # fmt: skip
def test_nothing_but_health_answers_without_the_token(made, path):
    with served(made, key="secret é".encode().decode("latin-1")) as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer "},
                        {"authorization": "secret"}, {"authorization": "Basic c2VjcmV0"},
                        {"authorization": "Basic @@"}):  # fmt: skip
            for body in (None, BODY):
                code, told, text = server.ask(body, path=path, headers=headers)
                assert code == 401
                assert json.loads(text)["error"]["code"] == "invalid_api_key"
                assert "Basic" in told["www-authenticate"]
        assert server.ask(path="/health")[0] == 200


def test_the_token_as_a_bearer_and_as_a_browsers_password(made):
    with served(made, key="sésame") as server:
        bearer = {"authorization": "Bearer sésame".encode().decode("latin-1")}
        password = {"authorization": f"Basic {b64encode('anyone:sésame'.encode()).decode()}"}
        for headers in (bearer, password):
            assert server.ask(path="/v1/models", headers=headers)[0] == 200
            assert server.ask(BODY, headers=headers)[0] == 200


def test_a_server_without_a_token_answers_to_its_own_names_alone(made):
    with served(made, hosts=("127.0.0.1", "localhost", "::1")) as server:
        for name, code in (("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:8000", 200),
                           ("evil.example", 403), ("127.0.0.1.evil.example:80", 403),
                           ("", 403)):  # fmt: skip
            assert server.ask(path="/v1/models", headers={"host": name})[0] == code, name
        assert server.refused(BODY, headers={"content-type": "text/plain"})[0] == 415


def test_paths_that_are_none_and_methods_that_are_not_meant(server):
    for path in ("/nothing", "/v1", "/examples/99", "/examples/-1", "/v1/models/../../etc/passwd"):
        assert server.ask(path=path)[0] == 404
        assert server.refused(path=path)[1]["type"] == "not_found_error"
    assert server.refused(path="/v1/chat/completions")[0] == 405
    assert server.refused(BODY, path="/health")[0] == 405


# ------------------------------------------------------------------ too much, too slowly


def test_bodies_that_are_too_large_are_refused_and_never_held(made):
    with served(made, limits=replace(TIGHT, idle_seconds=15.0)) as server:
        answers(server)
        before = resident()
        declared = said(server, POST + b"Content-Length: 104857600\r\n\r\n", b"x" * (100 << 20))
        assert status(declared) == 413
        chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
        endless = said(
            server, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 100, b"0\r\n\r\n"
        )
        assert status(endless) == 413
        assert server.refused(raw=b"x" * (2 << 20))[1]["code"] == "body_too_large"
        assert resident() - before < 60 << 20
        answers(server)


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"99999999999999999999"])
def test_lengths_that_are_none(server, length):
    assert status(said(server, POST + b"Content-Length: " + length + b"\r\n\r\n{}", wait=10)) in (
        400,
        413,
    )
    answers(server)


def test_requests_in_hand_share_a_bounded_memory(made):
    with served(made, limits=replace(TIGHT, memory=2 << 20)) as server:
        status_, error = server.refused(raw=b" " * (1 << 20))
        assert (status_, error["code"]) == (429, "server_busy")
        big = {"model": "small", "messages": [message("Which?", data_url(png(1000, 500)))]}
        server.waits_until(lambda: server.service.memory.held == 0)
        with served(made_again(made, server), limits=replace(TIGHT, memory=20 << 10)) as other:
            assert other.refused(big)[0] in (413, 429)
            other.waits_until(lambda: other.service.memory.held == 0)


def made_again(made, server):
    """The engine, once the other server has let go of it."""
    server.stop.set()
    server.waits_until(lambda: made.slots._state is None)
    return made


def test_a_body_that_does_not_come_is_not_waited_for(made):
    with served(made, limits=TIGHT) as server:
        begun = time.monotonic()
        assert status(said(server, POST + b"Content-Length: 100\r\n\r\n{", wait=10)) == 408
        assert time.monotonic() - begun < 8
        answers(server)


def test_connections_that_ask_nothing_are_closed(made):
    """And such as send their head a byte at a time."""
    with served(made, limits=TIGHT) as server:
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as idle:
            assert closed(idle)
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as slow:
            begun = time.monotonic()
            with suppress(ConnectionError):
                for letter in POST * 3:
                    slow.sendall(bytes([letter]))
                    time.sleep(0.05)
            assert time.monotonic() - begun < 15
        answers(server)


def closed(connection) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_thousand_connections(made):
    """The service goes on beside them, and its memory with them is bounded."""
    limits = Limits(connections=400, idle_seconds=30.0)
    with served(made, limits=limits) as server:
        answers(server)
        before = resident()
        many = []
        for number in range(1000):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            many.append(connection)
            with suppress(ConnectionError):
                connection.sendall(
                    [b"", b"GET / HT", POST, POST + b"Content-Length: 9\r\n\r\n{"][number % 4]
                )
        answers_beside(server)
        assert resident() - before < 150 << 20
        for connection in many:
            connection.close()
        server.waits_until(lambda: server.service.memory.held == 0)
        answers(server)


def answers_beside(server):
    """It may say that it is full; then it is asked again, as clients do."""
    found = []
    server.waits_until(lambda: found.append(server.ask(BODY)[0]) or found[-1] == 200)
    assert set(found) <= {200, 429}


def test_a_client_that_does_not_read_is_given_up(made):
    """Its stream is written to no end; after the time of a request its slot is free."""
    with served(made) as server:
        service = server.service
    made_again(made, server)

    async def ask() -> float:
        service.worker = Worker(made, 4)
        service.limits = Limits(seconds=0.5)
        service.worker.start(asyncio.get_running_loop())
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions",
                 "headers": [(b"content-type", b"application/json")]}  # fmt: skip
        body = json.dumps(BODY | {"stream": True}).encode()
        told = asyncio.Queue()
        told.put_nowait({"type": "http.request", "body": body})
        service.readers = ThreadPoolExecutor(1)

        async def never(_):
            await asyncio.Event().wait()

        begun = time.monotonic()
        await service.chat(scope, told.get, never)
        assert not service.worker.in_hand
        service.worker.stop()
        return time.monotonic() - begun

    with ThreadPoolExecutor(1) as elsewhere:  # a browser's loop may run in this thread
        assert elsewhere.submit(asyncio.run, ask()).result() < 15


# ------------------------------------------------------------------ nonsense


@pytest.mark.parametrize("garbage", [
    b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"\0" * 1000,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /%ff%00/..%2f HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
])  # fmt: skip
def test_garbage_is_refused_and_the_service_goes_on(made, garbage):
    with served(made, limits=TIGHT) as server:
        reply = said(server, garbage, wait=5)
        assert reply == b"" or status(reply) in (200, 400, 404)
        answers(server)


@pytest.mark.parametrize("messages", [
    [message("<|image_pad|>")], [message("x", data_url(b"x" * 5000))], [{"role": "user"}], [None],
    [message(LONG)], [message("x", *[data_url(png(30, 30))] * 65)],
    [message("x", *[data_url(png())] * 40)],
    [{"role": "user", "content": [{"type": "image_url", "image_url": "http://127.0.0.1/"}]}],
    [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}], [{"role": "assistant"}],
    [{"role": "user", "content": "\ud800"}], [{"role": "user", "content": []}],
    [{"role": "user", "content": "x"}] * 2000,
])  # fmt: skip
def test_messages_that_are_none_are_refused_by_name(server, messages):
    code, error = server.refused({"model": "small", "messages": messages})
    assert code in (400, 403)
    assert error["message"]
    assert error["param"]


def test_many_refusals_at_once_leave_nothing_behind(server):
    before = len(_own_threads())
    threads = [
        threading.Thread(target=server.refused, args=({"model": "small", "messages": [None]},))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.waits_until(lambda: len(_own_threads()) <= before + 4)
    answers(server)


def _own_threads():
    """All but those of the two pools, which are bounded: the web framework's, and the readers'."""
    pools = ("AnyIO", "reader")
    return [one for one in threading.enumerate() if not one.name.startswith(pools)]
