"""Parquet files read row by row, in memory that does not grow with the file.

Sets with embedded images are often a single row group of gigabytes. So columns are read through a
small buffer, and never a whole row group at once. A page or two are held in memory; a page that
pyarrow writes has up to 1,024 rows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lfpc_jax import regular
from lfpc_jax.jsonfile import OTHER_SHAPE

_ROWS = 16
_BUFFER = 2**20
_GROUP = 4096


def rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows in their order, each with the given columns."""
    with _reading(path):
        file = _opened(path)
    with file:
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(
                f"{path}: has columns {file.schema_arrow.names} and lacks {sorted(missing)}; "
                "is this the right set?"
            )
        batches = file.iter_batches(_ROWS, columns=list(columns))
        while (lines := _lines(path, batches)) is not None:
            yield from lines


def names(path: Path) -> list[str]:
    """The names of the file's columns."""
    with _reading(path), _opened(path) as file:
        return list(file.schema_arrow.names)


def write(path: Path, lines: Iterable[dict[str, Any]], schema: pyarrow.Schema) -> None:
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        group: list[dict[str, Any]] = []
        for line in lines:
            group.append(line)
            if len(group) == _GROUP:
                writer.write_batch(pyarrow.RecordBatch.from_pylist(group, schema))
                group.clear()
        if group:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(group, schema))


def _lines(path: Path, batches: Iterator[pyarrow.RecordBatch]) -> list[dict[str, Any]] | None:
    with _reading(path):
        batch = next(batches, None)
        return None if batch is None else batch.to_pylist()


def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
    regular.check(path)
    return pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Names the file in whatever pyarrow raises for a damaged one: errors of its own, of the file
    system, of Python's texts and numbers, and of memory, if a damaged length asks for too much."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowException, OSError, MemoryError, *OTHER_SHAPE) as error:
        if str(error).startswith(str(path)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error!s:.200}".split())
        raise ValueError(
            f"{path}: not a parquet file, or truncated or damaged ({reason}); copy it again"
        ) from error
