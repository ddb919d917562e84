"""The server's own run: connections that are idle or stuck are closed, and SIGTERM drains.

Signals are those of `stopping`, which the command hears from its first second, not uvicorn's.
"""

import asyncio
import contextlib
import resource
import socket
import time
import warnings
from collections.abc import Iterator
from typing import Any

import PIL.Image
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lfpc_jax import stopping
from lfpc_jax.serve.app import Service, app_of

_FILES = 1 << 16
"""Connections and files that may be open, if the system lets it."""
_LOOK = 10
"""Ticks of a tenth of a second between two looks at the connections."""


class Serving(uvicorn.Server):
    def __init__(self, service: Service, stop: Any = None) -> None:
        self.service, limits = service, service.limits
        self._stop = stopping.told if stop is None else stop
        self._since: dict[H11Protocol, tuple[object, float]] = {}
        config = uvicorn.Config(
            app_of(service),
            http=H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(limits.idle_seconds),
            timeout_graceful_shutdown=int(limits.drain_seconds),
            backlog=2048,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if self._stop.is_set():
            self.service.draining = self.should_exit = True
        if counter % _LOOK == 0:
            self._sweep()
        return await super().on_tick(counter)

    def _sweep(self) -> None:
        """Ends connections that have asked nothing for too long, or that do not read their end; the
        oldest of these first, if there are too many."""
        now, limits = time.monotonic(), self.service.limits
        since: dict[H11Protocol, tuple[object, float]] = {}
        for each in [c for c in self.server_state.connections if isinstance(c, H11Protocol)]:
            closing = each.transport.is_closing()
            if each.cycle is None or each.cycle.response_complete or closing:
                state = each.cycle, closing
                before = self._since.get(each)
                began = before[1] if before and before[0] == state else now
                since[each] = state, began
        idle = sorted(since, key=lambda each: since[each][1])
        many = len(self.server_state.connections) - limits.connections
        for number, each in enumerate(idle):
            if number < many or now - since[each][1] > limits.idle_seconds + 1:
                each.transport.abort()
        self._since = since


def bound(host: str, port: int) -> socket.socket:
    """A socket that may listen there. Raises ValueError with what the user can do about it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise ValueError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); "
            "choose another port"
        ) from error
    return made


def serve(service: Service, listening: socket.socket, stop: Any = None) -> int:
    """Serves until told to stop, and then until the requests in hand have ended, or their time has.
    Returns how many were cut off."""
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES if most == resource.RLIM_INFINITY else min(most, _FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return asyncio.run(_serve(service, listening, stop))


async def _serve(service: Service, listening: socket.socket, stop: Any) -> int:
    service.worker.start(asyncio.get_running_loop())
    try:
        await Serving(service, stop).serve(sockets=[listening])
        return len(service.worker.in_hand)
    finally:
        service.worker.stop()
        service.readers.shutdown(wait=False, cancel_futures=True)
