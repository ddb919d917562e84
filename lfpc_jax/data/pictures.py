"""Opens original pictures, and reads no more of each file than the purpose needs.

Every fault of a file raises `Unusable` with the file's name, whatever Pillow or the file system
raised. Sizes and pixels are always those of the upright picture.
"""

import hashlib
import io
import os
import stat
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
from PIL.ExifTags import Base as Exif

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.processing.images import to_rgb
from lfpc_jax.shapes import ASPECT_LIMIT
from lfpc_jax.trajectory import Picture, Size

_SIDEWAYS = (5, 6, 7, 8)
_JPEG_END = b"\xff\xd9"
_TAIL = 64
MOST_BYTES = 1 << 30
"""The largest file that is read as a picture."""
FAULTS = (
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError),
    *(ArithmeticError, MemoryError, struct.error, PIL.Image.DecompressionBombError),
)
"""What Pillow's readers raise for broken files, found by breaking many of them at random."""


def original(picture: Picture) -> PIL.Image.Image:
    """The whole picture, decoded, upright and RGB. Crops are cut from it."""
    with _reading(picture) as image:
        return to_rgb(image)


def measured(picture: Picture) -> Size:
    """The size of a picture that is checked to be whole. Of a JPEG only the head and the last bytes
    are read. If these do not end it, and for other formats, the file is decoded."""
    with _reading(picture) as image:
        width, height = _upright(image)
        if image.format != "JPEG" or _JPEG_END not in _tail(picture):
            image.load()
    if max(width, height) > ASPECT_LIMIT * min(width, height):
        raise Unusable(
            "too narrow",
            f"{_name(picture)}: {width}x{height} has sides over {ASPECT_LIMIT} times each other",
        )
    return width, height


def size(picture: Picture) -> Size:
    """The size of a picture that is known to be sound, read from its head alone."""
    with _reading(picture) as image:
        return _upright(image)


def contents(picture: Picture) -> bytes:
    """The picture's file, still encoded."""
    if picture.data is not None:
        return picture.data
    path = _file(picture)
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise Unusable("missing picture", f"{_name(picture)}: {error}") from error


def to_file(data: bytes, folder: Path) -> Picture:
    """An embedded picture as a file of the folder, which is named by its content and written
    once."""
    file = folder / hashlib.sha256(data).hexdigest()
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
        beside.write_bytes(data)
        os.replace(beside, file)
    return Picture(path=str(file))


def shrink(image: PIL.Image.Image, longest_side: int) -> PIL.Image.Image:
    """The picture downsampled so that its longest side is at most this: the information gap."""
    size = shrunk(image.size, longest_side)
    return image if size == image.size else image.resize(size, PIL.Image.Resampling.BICUBIC)


def shrunk(size: Size, longest_side: int | None) -> Size:
    """The size of what `shrink` returns."""
    scale = 1.0 if longest_side is None else longest_side / max(size)
    if scale >= 1:
        return size
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _upright(image: PIL.Image.Image) -> Size:
    width, height = image.size
    sideways = image.getexif().get(Exif.Orientation, 1) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


@contextmanager
def _reading(picture: Picture) -> Iterator[PIL.Image.Image]:
    source = _file(picture) if picture.data is None else io.BytesIO(picture.data)
    try:
        with PIL.Image.open(source) as image:
            if min(image.size) < 1:
                raise ValueError("{}x{} pixels".format(*image.size))
            yield image
    except FAULTS as error:
        raise Unusable("unreadable picture", f"{_name(picture)}: {error}") from error


def _file(picture: Picture) -> str:
    """The path of a picture's file. Raises `Unusable` unless that is a regular file of a bounded
    size: a device may be read without end, and a pipe waits for a writer."""
    if picture.path is None:
        raise Unusable("missing picture", "neither a path nor bytes")
    try:
        status = os.stat(picture.path)
    except (OSError, ValueError) as error:
        raise Unusable("missing picture", f"{picture.path!r:.200}: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise Unusable("missing picture", f"{picture.path!r:.200}: not a regular file")
    if status.st_size > MOST_BYTES:
        raise Unusable(
            "unreadable picture",
            f"{picture.path!r:.200}: {status.st_size} bytes, and at most {MOST_BYTES} are read",
        )
    return picture.path


def _tail(picture: Picture) -> bytes:
    if picture.data is not None:
        return picture.data[-_TAIL:]
    assert picture.path is not None
    with open(picture.path, "rb") as file:
        file.seek(max(0, os.path.getsize(picture.path) - _TAIL))
        return file.read()


def _name(picture: Picture) -> str:
    return picture.path or f"{len(picture.data or b'')} embedded bytes"
