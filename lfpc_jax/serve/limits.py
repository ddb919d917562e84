"""What a client may take: bytes, seconds, memory."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from lfpc_jax.serve.refused import Refused

Receive = Callable[[], Awaitable[Any]]

_LINGER = 5.0
"""Seconds in which the rest of a body that is too large is read and forgotten."""
_COPIES = 3
"""How many times its own size a body takes in memory: as bytes, as text, and as pictures."""


class Gone(Exception):
    """The client is not there any more."""


@dataclass(frozen=True)
class Limits:
    body_bytes: int = 32 << 20
    body_seconds: float = 30.0
    pixels: int = 50_000_000
    seconds: float = 600.0
    memory: int = 2 << 30
    """Bytes for the bodies and decoded pictures of all requests in hand."""
    drain_seconds: float = 30.0
    connections: int = 2000
    idle_seconds: float = 15.0
    """After so long a connection is closed on which no whole request has arrived."""


@dataclass
class Memory:
    """What requests in hand hold, counted before they take it."""

    most: int
    held: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, amount: int) -> None:
        with self._lock:
            if self.held + amount > self.most:
                raise Refused(
                    429,
                    "the requests in hand hold all the memory that they may; try again",
                    code="server_busy",
                    wait=1,
                )
            self.held += amount

    def give(self, amount: int) -> None:
        with self._lock:
            self.held -= amount


class Share:
    """What one request holds of the memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.held, self.over = memory, 0, False
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        with self._lock:
            if self.over:  # the client is gone, and a thread still reads what it sent
                raise Gone
            self.memory.take(amount)
            self.held += amount

    def keep(self, amount: int) -> None:
        """Gives memory back, so that `amount` bytes are still held."""
        with self._lock:
            if not self.over:
                self.memory.give(self.held - amount)
                self.held = amount

    def give(self) -> None:
        self.keep(0)
        with self._lock:
            self.over = True


@contextmanager
def share(memory: Memory) -> Iterator[Share]:
    own = Share(memory)
    try:
        yield own
    finally:
        own.give()


async def body_of(
    receive: Receive, headers: Mapping[str, str], limits: Limits, own: Share
) -> bytes:
    """The body of a request, read within the limits."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            415, "the content-type must be application/json", code="unsupported_media_type"
        )
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limits.body_bytes:
        if "expect" not in headers:
            await _discard(receive)
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                more = message.get("body", b"")
                if len(body) + len(more) > limits.body_bytes:
                    body.clear()
                    await _discard(receive)
                    raise _too_large(limits)
                own.take(_COPIES * len(more))
                body += more
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(
            408,
            f"the body did not come within {limits.body_seconds:g} s",
            code="body_too_slow",
        ) from None


async def _discard(receive: Receive) -> None:
    """Reads and forgets the rest of a body for a while, since some clients read no reply until they
    have sent everything."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413,
        f"the body is over {limits.body_bytes} bytes; send smaller pictures",
        code="body_too_large",
    )
