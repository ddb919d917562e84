"""Checksums of a Hugging Face folder's weights, which the safetensors format does not have.

    FOLDER/sums.json    for each file of weights its size, and a CRC-32 of every 4 MiB

Exports are written with this file, which transformers ignores; folders from elsewhere lack it. A
block is checked when it is first read, so loading reads no byte a second time, and a process that
reads only the rows of its devices checks only the blocks that hold them.
"""

import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lfpc_jax.jsonfile import Checked, read_object

FILE = "sums.json"
FORMAT = 1
_BLOCK = 4 << 20
_LARGEST_BLOCK, _LARGEST_FILE = 1 << 30, 1 << 50
_THREADS = 4


class Summing:
    """The checksums of a file that is being written."""

    def __init__(self) -> None:
        self._bytes, self._crcs = 0, [0]

    def add(self, data: memoryview) -> None:
        """Counts the bytes that follow those that were added before."""
        while data:
            room = _BLOCK * len(self._crcs) - self._bytes
            if not room:
                self._crcs.append(0)
                room = _BLOCK
            part, data = data[:room], data[room:]
            self._crcs[-1] = zlib.crc32(part, self._crcs[-1])
            self._bytes += len(part)

    @property
    def sums(self) -> "FileSums":
        return FileSums(self._bytes, _BLOCK, tuple(self._crcs if self._bytes else ()))


@dataclass(frozen=True)
class FileSums:
    """The size of a file, and the CRC-32 of each of its blocks, of which the last may be
    shorter."""

    bytes: int
    block: int
    crcs: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> "FileSums":
        """The sums of a file as it is now."""
        summing = Summing()
        with path.open("rb") as file:
            while data := file.read(_BLOCK):
                summing.add(memoryview(data))
        return summing.sums


def write(folder: Path, sums: Mapping[str, FileSums]) -> None:
    files = {name: {"bytes": file.bytes, "crc32": file.crcs} for name, file in sorted(sums.items())}
    content = {"format": FORMAT, "block_bytes": _BLOCK, "files": files}
    (folder / FILE).write_text(json.dumps(content) + "\n")


def read(folder: Path) -> Mapping[str, FileSums] | None:
    """The sums of a folder's weights by the names of their files; None if it has none."""
    path = folder / FILE
    if not path.is_file():
        return None
    raw, check = read_object(path), Checked(path)
    check.whole("format", raw.get("format"), FORMAT, FORMAT)
    block = check.whole("block_bytes", raw.get("block_bytes"), 1, _LARGEST_BLOCK)
    sums = {}
    for name, entry in check.mapping("files", raw.get("files")).items():
        entry = check.mapping(f"files.{name:.80}", entry)
        size = check.whole(f"{name:.80}.bytes", entry.get("bytes"), 0, _LARGEST_FILE)
        crcs = check.wholes(f"{name:.80}.crc32", entry.get("crc32"), 0, 0xFFFFFFFF)
        if len(crcs) != -(-size // block):
            raise check.wrong(f"{name:.80}.crc32", len(crcs), "a sum for each block of the file")
        sums[name] = FileSums(size, block, crcs)
    return sums


@dataclass(frozen=True)
class Verified:
    """A file whose blocks are compared with their sums when they are first read."""

    path: Path
    sums: FileSums
    _sound: bytearray = field(default_factory=bytearray, repr=False)
    """Which blocks were found to be sound, a byte for each."""

    @classmethod
    def opened(cls, path: Path, sums: Mapping[str, FileSums]) -> "Verified":
        """Raises ValueError if the file has no sums, or another size."""
        if path.name not in sums:
            raise ValueError(f"{path}: is not in {FILE}; {_remedy(path)}")
        written, size = sums[path.name], path.stat().st_size
        if size != written.bytes:
            raise ValueError(
                f"{path}: has {size} bytes, {written.bytes} were written; {_remedy(path)}"
            )
        return cls(path, written, bytearray(len(written.crcs)))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the buffer with what the file has from `offset` on."""
        if not buffer:
            return
        last = offset + len(buffer) - 1
        blocks = range(offset // self.sums.block, last // self.sums.block + 1)
        with self.path.open("rb", buffering=0) as file:
            fill = partial(self._fill, file.fileno(), buffer, offset)
            if len(blocks) == 1:
                fill(blocks[0])
                return
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(fill, blocks))

    def _fill(self, descriptor: int, buffer: memoryview, offset: int, number: int) -> None:
        """Reads the part of the buffer that lies in a block. The whole block is read if it was not
        yet."""
        start = number * self.sums.block
        stop = min(start + self.sums.block, self.sums.bytes)
        low, high = max(start, offset), min(stop, offset + len(buffer))
        part = buffer[low - offset : high - offset]
        if self._sound[number]:
            self._read(descriptor, part, low)
            return
        whole = part if (low, high) == (start, stop) else memoryview(bytearray(stop - start))
        self._read(descriptor, whole, start)
        if zlib.crc32(whole) != self.sums.crcs[number]:
            raise ValueError(
                f"{self.path}: is corrupt: bytes {start} to {stop} are not those that were written "
                f"(by their CRC-32 in {FILE}); {_remedy(self.path)}"
            )
        self._sound[number] = True
        if whole is not part:
            part[:] = whole[low - start : high - start]

    def _read(self, descriptor: int, into: memoryview, offset: int) -> None:
        while into:
            count = os.preadv(descriptor, [into], offset)
            if not count:
                raise ValueError(
                    f"{self.path}: ended {len(into)} bytes early while it was read; it has changed "
                    "since it was opened, copy it again"
                )
            into, offset = into[count:], offset + count


def _remedy(path: Path) -> str:
    return f"copy the folder again, or remove {path.parent / FILE} if you replaced the weights"
