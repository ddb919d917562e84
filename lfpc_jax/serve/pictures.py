"""Pictures that a request names: data URLs, and what else the operator allows.

A request can never make the server open an address or a path of its choice. Without flags only data
URLs are read. Hosts are allowed by name, folders by path. An address is looked up once and
connected to as it was looked up, and must be public, unless the host was allowed by its address
itself. Redirects are not followed. The size is read from the picture's head before it is decoded,
and only formats are opened whose readers run no other program.
"""

import base64
import binascii
import io
import ipaddress
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import PIL.Image

from lfpc_jax.data.pictures import FAULTS
from lfpc_jax.processing.images import to_rgb
from lfpc_jax.serve.refused import Refused, invalid
from lfpc_jax.shapes import ASPECT_LIMIT

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_DATA = re.compile(
    r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w=.+-]+)*;base64,", re.I
)
_WHERE = "image_url"
_BYTES = 8
"""Of a pixel while it is decoded: with transparency, and as RGB."""


@dataclass(frozen=True)
class Allowed:
    """What may be opened. `pixels` and `size` limit a picture and its file; `seconds` a fetch."""

    pixels: int
    size: int
    hosts: Sequence[str] = ()
    folder: Path | None = None
    seconds: float = 10.0

    def open(self, name: str, take: Callable[[int], None]) -> PIL.Image.Image:
        """The picture, upright and RGB. Raises `Refused`. `take` is told of its bytes before they
        are decoded."""
        return decoded(self._contents(name), self.pixels, take)

    def _contents(self, name: str) -> bytes:
        scheme = name[:8].partition(":")[0].lower()
        if scheme == "data":
            return _of_data_url(name)
        if scheme in ("http", "https"):
            return self._fetched(name)
        if scheme == "file":
            return self._file(name)
        raise invalid(
            "a picture's URL begins with data:, http:, https: or file:; send the file as "
            "data:image/png;base64,...",
            _WHERE,
            "invalid_image_url",
        )

    # ------------------------------------------------------------------ files

    def _file(self, name: str) -> bytes:
        if self.folder is None:
            raise _not_allowed("files are not opened here; send a data URL (or see --allow-files)")
        root = Path(os.path.realpath(self.folder))
        try:
            parts = urlsplit(name)
            path = Path(os.path.realpath(unquote(parts.path, errors="strict")))
            if parts.netloc not in ("", "localhost") or not path.is_relative_to(root):
                raise _not_allowed("this file is not in the folder that may be read")
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError):
            raise _unreadable("there is no such file in the folder that may be read") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _unreadable("not a regular file")
        with os.fdopen(descriptor, "rb") as file:
            return self._bounded(file.read(self.size + 1))

    # ------------------------------------------------------------------ hosts

    def _fetched(self, name: str) -> bytes:
        try:
            parts = urlsplit(name)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise invalid("this is not a URL", _WHERE, "invalid_image_url") from None
        asked = f"{host}:{port}" if port else host
        if asked not in self.hosts:
            raise _not_allowed(
                "pictures of this host are not fetched; send a data URL (or see --allow-hosts)"
            )
        if parts.username is not None or parts.password is not None:
            raise invalid("a picture's URL may hold no password", _WHERE, "invalid_image_url")
        try:
            return self._get(parts, host, port or (443 if parts.scheme == "https" else 80))
        except (OSError, HTTPException) as error:
            # The words of a server, or of a resolver, are not passed on.
            raise _unreadable(
                f"the picture could not be fetched ({type(error).__name__})"
            ) from None

    def _get(self, parts: SplitResult, host: str, port: int) -> bytes:
        address = _address(host, port)
        started = time.monotonic()
        connected = socket.create_connection((address, port), timeout=self.seconds)
        late = threading.Timer(
            max(self.seconds - (time.monotonic() - started), 0), _cut, [connected]
        )
        late.daemon = True
        late.start()
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                connected = context.wrap_socket(connected, server_hostname=host)
            connection = HTTPConnection(host, port, timeout=self.seconds)
            connection.sock = connected
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept": "image/*"})
            with connection.getresponse() as response:
                if response.status != 200:
                    raise _unreadable(
                        f"the picture's host answered {response.status}; redirects are not followed"
                    )
                return self._bounded(response.read(self.size + 1))
        finally:
            late.cancel()
            connected.close()

    def _bounded(self, contents: bytes) -> bytes:
        if len(contents) > self.size:
            raise invalid(f"a picture's file is over {self.size} bytes", _WHERE, "image_too_large")
        return contents


def decoded(contents: bytes, most_pixels: int, take: Callable[[int], None]) -> PIL.Image.Image:
    try:
        with PIL.Image.open(io.BytesIO(contents), formats=FORMATS) as image:
            width, height = image.size
            if width * height > most_pixels:
                raise invalid(
                    f"a picture of {width}x{height} pixels; at most {most_pixels} are decoded: "
                    "downsample it",
                    _WHERE,
                    "image_too_large",
                )
            if max(width, height) > ASPECT_LIMIT * min(width, height):
                raise invalid(
                    f"a picture of {width}x{height} pixels has sides over {ASPECT_LIMIT} times "
                    "each other",
                    _WHERE,
                    "invalid_image",
                )
            take(_BYTES * width * height)
            return to_rgb(image)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise invalid(
            f"a picture of far over {most_pixels} pixels: downsample it", _WHERE, "image_too_large"
        ) from None
    except PIL.UnidentifiedImageError:
        raise _unreadable(f"not a picture in one of the formats {', '.join(FORMATS)}") from None
    except FAULTS as error:
        raise _unreadable(f"the picture is damaged ({type(error).__name__})") from None


def _of_data_url(name: str) -> bytes:
    head = _DATA.match(name, 0, 200)
    if head is None:
        raise invalid("a data URL must be data:image/...;base64,...", _WHERE, "invalid_image_url")
    try:
        return base64.b64decode(name[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise invalid("a data URL's base64 is damaged", _WHERE, "invalid_image_url") from None


def _address(host: str, port: int) -> str:
    """Where a host is, if it may be there."""
    try:
        return str(ipaddress.ip_address(host))  # the operator named the address itself
    except ValueError:
        pass
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(each[4][0]) for each in found]
    if not addresses or not all(_public(address) for address in addresses):
        raise _not_allowed("this host is at an address that is not public")
    return str(addresses[0])


def _public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_global and not mapped.is_multicast


def _cut(connected: socket.socket) -> None:
    try:
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
    except OSError:
        return


def _unreadable(message: str) -> Refused:
    return invalid(message, _WHERE, "invalid_image")


def _not_allowed(message: str) -> Refused:
    return Refused(403, message, param=_WHERE, code="image_url_not_allowed")
