"""The safetensors format: a reader that checks the whole header first, and a writer that streams.

A file is eight bytes (the header's length, little-endian), a JSON header that gives each key a
dtype, a shape and its place in the data, and then the data without gaps.

Deviation from the `safetensors` package: nothing is memory-mapped. Mapped pages count as resident
memory, so a loader that maps files could not promise its peak memory.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lfpc_jax.checkpoint.sums import FileSums, Summing, Verified
from lfpc_jax.jsonfile import brief, parsed

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ITEM_BITS = re.compile(r"(?:BF|F|I|U|C)(\d{1,4})(?:_\w+)?$")
_LARGEST, _MOST_DIMENSIONS = 1 << 50, 32
_HEADER_LIMIT = 100_000_000
_ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `start` counts from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class TensorFile:
    """A checked file: every entry is well-formed, and the data is exactly as long as promised. If
    its checksums are known, what is read of it is `verified`."""

    path: Path
    entries: Mapping[str, Entry]
    verified: Verified | None = None

    def dtype(self, key: str) -> np.dtype:
        name = self.entries[key].dtype
        if name not in DTYPES:
            raise ValueError(
                f"{self.path}: key {key!r} has dtype {name}; weights can be read as "
                f"{', '.join(DTYPES)}. Quantised folders cannot be loaded: take the original"
            )
        return DTYPES[name]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `start` to `stop` of a tensor (default: all of it), as a new array."""
        entry, dtype = self.entries[key], self.dtype(key)
        if not entry.shape:
            return self._bytes(key, entry.start, entry.nbytes).view(dtype).reshape(())
        stop = entry.shape[0] if stop is None else stop
        assert 0 <= start <= stop <= entry.shape[0], (key, start, stop, entry.shape)
        row = math.prod(entry.shape[1:]) * dtype.itemsize
        data = self._bytes(key, entry.start + start * row, (stop - start) * row)
        return data.view(dtype).reshape(stop - start, *entry.shape[1:])

    def _bytes(self, key: str, offset: int, count: int) -> np.ndarray:
        buffer = np.empty(count, np.uint8)
        if self.verified is not None:
            self.verified.read_into(buffer.data, offset)
            return buffer
        rest = buffer.data
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            while rest:
                got = file.readinto(rest)
                if not got:
                    raise ValueError(
                        f"{self.path}: key {key!r}: the file ended {len(rest)} bytes early while "
                        "it was read; it has changed since it was opened, copy it again"
                    )
                rest = rest[got:]
        return buffer


def open_file(path: str | Path, sums: Mapping[str, FileSums] | None = None) -> TensorFile:
    """Reads and checks the header; the data is not touched. With the `sums` of its folder, what is
    read later is compared with them."""
    path = Path(path)
    size = path.stat().st_size
    header, data_at = _header(path, size)
    header.pop("__metadata__", None)
    entries = {key: _entry(path, key, raw, data_at) for key, raw in header.items()}
    _check_data(path, entries, data_at, size)
    return TensorFile(path, entries, None if sums is None else Verified.opened(path, sums))


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header, and where the data begins."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _HEADER_LIMIT:
            raise ValueError(
                f"{path}: is not a safetensors file (it has {size} bytes, its header would have "
                f"{length}); copy the file again"
            )
        if 8 + length > size:
            raise ValueError(
                f"{path}: truncated: the header has {length} bytes, the whole file {size}; "
                "copy the file again"
            )
        text = file.read(length)
    header = parsed(text, f"{path}: the header", unique_keys=True)
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is not a JSON object; copy the file again")
    return header, 8 + length


def _entry(path: Path, key: str, raw: Any, data_at: int) -> Entry:
    try:
        dtype, shape, (start, stop) = raw["dtype"], raw["shape"], raw["data_offsets"]
        numbers = [*shape, start, stop]
        well_formed = (
            all(type(n) is int and 0 <= n <= _LARGEST for n in numbers)
            and start <= stop
            and len(shape) <= _MOST_DIMENSIONS
            and isinstance(dtype, str)
        )
    except (TypeError, KeyError, ValueError):
        well_formed = False
    if not well_formed:
        raise ValueError(
            f"{path}: key {key!r:.200} has the entry {brief(raw)}, expected dtype, shape and "
            "data_offsets [start, stop]; write the file again"
        )
    bits = _ITEM_BITS.match(dtype)
    if not bits and dtype != "BOOL":
        raise ValueError(f"{path}: key {key!r} has the unknown dtype {dtype!r:.60}")
    needed = math.prod(shape) * (int(bits[1]) if bits else 8) // 8
    if stop - start != needed:
        raise ValueError(
            f"{path}: key {key!r} of {dtype} {shape} needs {needed} bytes, its data_offsets "
            f"{start} to {stop} are {stop - start}; write the file again"
        )
    return Entry(dtype, tuple(shape), data_at + start, needed)


def _check_data(path: Path, entries: Mapping[str, Entry], data_at: int, size: int) -> None:
    """Checks that tensors follow each other without gap or overlap and end where the file ends."""
    end, before = data_at, "the header"
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != end:
            fault = "overlaps" if entry.start < end else "leaves a gap after"
            raise ValueError(
                f"{path}: key {key!r} starts at byte {entry.start} and {fault} {before}, which "
                f"ends at {end}; write the file again"
            )
        end, before = entry.start + entry.nbytes, f"key {key!r}"
        if end > size:
            raise ValueError(
                f"{path}: truncated: key {key!r} ends at byte {end}, the file has {size}; "
                "copy the file again"
            )
    if end != size:
        raise ValueError(
            f"{path}: {size - end} bytes follow the last tensor ({before}); write the file again"
        )


@dataclass(frozen=True)
class Planned:
    """Dtype and shape of a tensor that is to be written."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_file(
    path: str | Path, plan: Mapping[str, Planned], tensors: Iterable[np.ndarray]
) -> FileSums:
    """Writes the tensors one by one, in the order of `plan`, so that only one is in memory. Returns
    the checksums of the file.

    The file appears under its name when it is complete and on the disk. Wider dtypes must come
    before narrower ones, so that every tensor is aligned to the size of its items.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    summing = Summing()
    try:
        with open(partial, "wb") as file:

            def put(data: memoryview) -> None:
                summing.add(data)
                file.write(data)

            put(memoryview(_header_bytes(plan)))
            for (key, planned), tensor in zip(plan.items(), tensors, strict=True):
                given = (tensor.dtype, tensor.shape)
                assert given == (planned.dtype, planned.shape), (path, key, given, planned)
                put(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return summing.sums


def _header_bytes(plan: Mapping[str, Planned]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, narrowest = 0, math.inf
    for key, planned in plan.items():
        assert planned.dtype.itemsize <= narrowest, (key, planned, "after a narrower tensor")
        narrowest = planned.dtype.itemsize
        header[key] = {
            "dtype": _NAMES[planned.dtype],
            "shape": list(planned.shape),
            "data_offsets": [at, at + planned.nbytes],
        }
        at += planned.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
