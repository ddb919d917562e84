"""One HTTP request with a limit on its whole duration.

A socket's timeout starts anew with every byte, so a server that sends single bytes slowly can hold
a caller for hours. Here the limit is for the whole request. Redirects and proxies are not followed.
The text of a failure consists of this module's words and the system's, since the server's words may
repeat what it was sent."""

import os
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from urllib.parse import urlsplit

_LONGEST_REPLY = 1 << 20


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    wait: float
    """The seconds that the server asks its caller to wait; 0 if it does not."""


class NoReply(Exception):
    """Nothing usable came back. `cause` is the kind of failure, `detail` what happened."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}{detail}")
        self.cause, self.detail = cause, detail


def check_url(url: str, setting: str) -> None:
    """Raises ValueError for a URL that is not a plain address, without repeating a password in
    it. `setting` is where the user wrote it."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        plain = False
    if not plain or "@" in url or parts.query or parts.fragment:
        quoted = repr(url) if "@" not in url else "(not shown: it may hold a password)"
        raise ValueError(
            f"{setting} {quoted} is not an address like 'http://host:8000/v1'; give one, and "
            "keys only through the environment"
        )


def post(url: str, headers: dict[str, str], body: bytes, seconds: float) -> Reply:
    """The reply to a POST, or `NoReply` when `seconds` have passed or the connection failed."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    assert parts.hostname, url
    started = time.monotonic()
    connection = kind(parts.hostname, parts.port, timeout=seconds)
    late = threading.Event()
    watchdog = None
    try:
        connection.connect()
        left = max(seconds - (time.monotonic() - started), 0)
        watchdog = threading.Timer(left, _cut, (connection.sock, late))
        watchdog.daemon = True
        watchdog.start()
        connection.request("POST", parts.path, body, headers)
        with connection.getresponse() as response:
            text = response.read(_LONGEST_REPLY)
            if late.is_set():
                raise TimeoutError
            return Reply(response.status, text, _asked_wait(response.headers))
    except (OSError, HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise NoReply("no reply", f" within {seconds:.3g} s") from None
        raise NoReply("no connection", f" ({_own_words(error)})") from None
    finally:
        if watchdog:
            watchdog.cancel()
        connection.close()


def _own_words(error: OSError | HTTPException) -> str:
    """An exception without its text, in which http.client repeats the status line."""
    name = type(error).__name__
    if isinstance(error, ssl.SSLError):
        return f"{name}: {error.reason}" if error.reason else name
    if isinstance(error, socket.gaierror):
        return f"{name}: the host's name is not known"
    number = getattr(error, "errno", None)
    return f"{name}: {os.strerror(number)}" if number else name


def _cut(connected: socket.socket, late: threading.Event) -> None:
    """Ends a connection under its reader, past the wrapping that TLS puts around it."""
    late.set()
    with suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _asked_wait(headers: HTTPMessage) -> float:
    """Retry-After, which is a number of seconds or a date; 0 without one that can be read."""
    asked = (headers.get("Retry-After") or "").strip()
    if asked.isdecimal():
        return float(asked)
    try:
        return max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0
