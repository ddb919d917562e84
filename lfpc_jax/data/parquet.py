"""Parquet files read row by row, in memory that does not grow with the file.

Sets with embedded images are often a single row group of gigabytes. So columns are read through a
small buffer, and never a whole row group at once. A page or two are held in memory; a page that
pyarrow writes has up to 1,024 rows.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lfpc_jax import regular

_ROWS = 16
_BUFFER = 2**20
_GROUP = 4096


def rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows in their order, each with the given columns."""
    with _opened(path) as file:
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(
                f"{path}: has columns {file.schema_arrow.names} and lacks {sorted(missing)}; "
                "is this the right set?"
            )
        for batch in file.iter_batches(_ROWS, columns=list(columns)):
            yield from batch.to_pylist()


def names(path: Path) -> list[str]:
    """The names of the file's columns."""
    with _opened(path) as file:
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


def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
    regular.check(path)
    try:
        return pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a parquet file, or truncated: {error}") from error
