"""Files that someone else may have made: read only if they are regular, and never without a bound.

A device may be read without end, a pipe waits for a writer, and a sparse file is longer than the
disk that holds it. Each raises ValueError in one line that names the file; what `open` raises stays
an OSError.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 1 << 30
"""Of a file that is read whole."""
LONGEST_LINE = 1 << 28

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def opened(path: str | Path) -> BinaryIO:
    """The file, open for reading bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without which a pipe waits right here
    try:
        _check(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check(path: str | Path) -> None:
    """For a file that a library opens by its name."""
    _check(path, os.stat(path).st_mode)


def contents(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The whole file, of at most so many bytes."""
    with opened(path) as file:
        read = file.read(most + 1)
    if len(read) > most:
        raise ValueError(f"{path}: over {most} bytes, and no such file is as large; look at it")
    return read


def lines(path: str | Path, longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """The file's lines with their ends, one in memory at a time."""
    with opened(path) as file:
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest:
                raise ValueError(f"{path}, line {number}: over {longest} bytes; look at the file")
            yield line


def _check(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of another kind")
        raise ValueError(f"{path}: is {kind} where a regular file is read; put the file there")
