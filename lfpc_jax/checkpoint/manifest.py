"""Sizes and checksums of the files below a folder.

Deviation from plain Orbax, which returns wrong numbers without a word where a bit of a stored
array has flipped: what we store is listed when it is written, and checked before it is read.
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
    """Of every file below the folder, or of those of these names."""
    found = folder.rglob("*") if names is None else (folder / name for name in names)
    files = sorted(path for path in found if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(_crc32, files))
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": crc}
        for path, crc in zip(files, sums)
    }


def verify(folder: Path, manifest: Manifest) -> None:
    """Raises for the first file that is not what the manifest says; others are ignored."""
    paths = [folder / name for name in manifest]
    for path, said in zip(paths, manifest.values()):
        if not path.is_file():
            raise ValueError(f"{path}: is missing; copy the whole of {folder} again")
        if (size := path.stat().st_size) != said["bytes"]:
            raise ValueError(
                f"{path}: has {size} bytes, {said['bytes']} were written; copy {folder} again"
            )
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, said, crc in zip(paths, manifest.values(), pool.map(_crc32, paths)):
            if crc != said["crc32"]:
                raise ValueError(
                    f"{path}: is corrupt (its CRC-32 is {crc:08x}, {said['crc32']:08x} was "
                    f"written); copy {folder} again"
                )


def _crc32(path: Path) -> int:
    crc = 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
