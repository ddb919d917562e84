"""What the readers of public sets share: rows from files, and a row's parts from its values."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.jsonfile import OTHER_SHAPE, parsed
from lfpc_jax.trajectory import Picture, Record

Row = Any
"""A dict, where the file is what it should be."""


def records(
    file: str, rows: Iterable[Row], record: Callable[[str, Row], Record]
) -> Iterator[Record | Rejected]:
    """Each row as a record, or as a rejected one, by the name of the file and the row's place."""
    for place, row in enumerate(rows):
        name = f"{file}/{place}"
        try:
            yield record(name, row)
        except Unusable as error:
            yield Rejected.of(name, error)
        except (*OTHER_SHAPE, StopIteration) as error:
            yield Rejected(name, "malformed row", f"{type(error).__name__}: {error!s:.200}")


def parquet_files(path: Path) -> list[Path]:
    """The file itself, all within a folder, or those of a pattern such as `train-*.parquet`, in the
    order of their names."""
    if path.is_file():
        return [path]
    paths = sorted(path.rglob("*.parquet") if path.is_dir() else path.parent.glob(path.name))
    if not paths:
        raise ValueError(f"{path}: no parquet file here; is this the set's folder?")
    return paths


def name_within(file: Path, path: Path) -> Path:
    """A file's name within the path that it was found by, without its suffix."""
    return file.relative_to(path if path.is_dir() else path.parent).with_suffix("")


def json_list(path: Path, key: str = "") -> list[Row]:
    """The list that a JSON file holds, itself or under `key`."""
    value = parsed(regular.contents(path), path)
    if key and isinstance(value, dict):
        value = value.get(key)
    if not isinstance(value, list):
        kind, where = type(value).__name__, f" under {key!r}" if key else ""
        raise ValueError(f"{path}: holds a {kind} where a list is expected{where}")
    return value


def embedded(value: Any, folder: Path) -> Picture:
    """A picture given as bytes, or as the usual struct of `bytes` and `path` with one of the
    two."""
    if isinstance(value, bytes):
        return Picture(data=value)
    if value is None or not (value["bytes"] or value["path"]):
        raise Unusable("missing picture", "neither bytes nor a path")
    return Picture(data=value["bytes"]) if value["bytes"] else picture_file(value["path"], folder)


def picture_file(name: str, folder: Path) -> Picture:
    return Picture(path=str(folder / name))


def text(value: Any) -> str:
    """None becomes an empty text, which the audit rejects by name, and not the word "None"."""
    return "" if value is None else str(value).strip()
