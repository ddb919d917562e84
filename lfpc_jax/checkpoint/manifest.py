"""Sizes and checksums of the files below a folder.

Deviation from plain Orbax, which returns wrong numbers without an error if a bit of a stored array
has flipped: files are listed when they are written, and checked before they are read.
"""

import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Manifest = Mapping[str, Mapping[str, int]]
"""File, relative to the folder -> its `bytes` and `crc32`."""

_CHUNK = 16 * 2**20
_THREADS = 4


def describe(folder: Path, names: Iterable[str] | None = None) -> Manifest:
    """The manifest of every file below the folder, or only of those called `names`."""
    paths = folder.rglob("*") if names is None else (folder / name for name in names)
    files = sorted(path for path in paths if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(_crc32, files))
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": crc}
        for path, crc in zip(files, sums)
    }


def verify(folder: Path, manifest: Manifest) -> None:
    """Raises ValueError for the first file that differs from its entry. Files without an entry are
    ignored."""
    paths = [folder / name for name in manifest]
    for path, entry in zip(paths, manifest.values()):
        sums = entry if isinstance(entry, Mapping) else {}
        if not all(type(sums.get(name)) is int for name in ("bytes", "crc32")):
            raise ValueError(f"{path}: its manifest has no size and checksum; copy {folder} again")
        if not path.is_file():
            raise ValueError(f"{path}: is missing; copy the whole of {folder} again")
        if (size := path.stat().st_size) != entry["bytes"]:
            raise ValueError(
                f"{path}: has {size} bytes, {entry['bytes']} were written; copy {folder} again"
            )
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, entry, crc in zip(paths, manifest.values(), pool.map(_crc32, paths)):
            if crc != entry["crc32"]:
                raise ValueError(
                    f"{path}: is corrupt (its CRC-32 is {crc:08x}, {entry['crc32']:08x} was "
                    f"written); copy {folder} again"
                )


def _crc32(path: Path) -> int:
    crc = 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
