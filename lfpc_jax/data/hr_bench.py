"""HR-Bench as published: a TSV, or a parquet file with the same columns.

Each sample is four rows with its options rotated; `cycle_category` distinguishes them. A record is
a row. Its id is `<file>/<index>@<cycle>`, from which `cycle_of` and `sample_of` find the cycle and
the sample. The answer is a letter already. No boxes are published.

Images are base64, megabytes a row, and the same in all four. Each is written once into a folder,
unchanged, and records carry its path. As in the public tools, an `image` of at most 64 characters
is the index of the row that has the image. Rows are read one at a time.
"""

import base64
import binascii
import csv
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.data import parquet
from lfpc_jax.data.benchmarks import HR_BENCH_COLUMNS
from lfpc_jax.data.columns import check_columns
from lfpc_jax.data.pictures import to_file
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.jsonfile import OTHER_SHAPE
from lfpc_jax.trajectory import Picture, Record

DATASET = "hr_bench"
LETTERS = "ABCD"
_LONGEST_INDEX = 64
_LONGEST_FIELD = 2**31 - 1  # the most that csv can be told on every platform


def read(path: Path, pictures: Path) -> Iterator[Record | Rejected]:
    """The rows in their order. Images are written into the folder `pictures`."""
    rows = _parquet(path) if path.suffix == ".parquet" else _tsv(path)
    placed: dict[str, Picture] = {}
    for place, row in enumerate(rows):
        name = f"{path.stem}/{row.get('index')}@{row.get('cycle_category')}"
        try:
            yield _record(name, row, placed, pictures)
        except Unusable as error:
            yield Rejected.of(name, error)
        except OTHER_SHAPE as error:
            yield Rejected(f"{path.stem} row {place}", "malformed row", f"{error!s:.200}")


def cycle_of(record: Record) -> str:
    """Empty for a record that is not of HR-Bench."""
    return record.id.rpartition("@")[2] if record.dataset == DATASET else ""


def sample_of(record: Record) -> str:
    """An id that the four cycles of a sample share; of other sets the record's id. Of the picture
    only the file's name counts, which is a digest of its content, so that an evaluation may resume
    in another folder."""
    if record.dataset != DATASET:
        return record.id
    options = "\0".join(sorted(record.options))
    identity = f"{os.path.basename(record.picture.path or '')}\0{record.question}\0{options}"
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def _record(name: str, row: dict[str, Any], placed: dict[str, Picture], pictures: Path) -> Record:
    absent = [column for column in HR_BENCH_COLUMNS if row[column] is None]
    if absent:
        raise Unusable("malformed row", f"nothing in {absent}")
    image, index = str(row["image"]), str(row["index"])
    if len(image) <= _LONGEST_INDEX:
        if image not in placed:
            raise Unusable("missing picture", f"refers to row {image!r}, which has none before it")
        picture = placed[image]
    else:
        picture = placed[index] = _place(image, pictures)
    return Record(
        id=name,
        question=str(row["question"]).strip(),
        answer=str(row["answer"]).strip(),
        picture=picture,
        options=tuple(str(row[letter]).strip() for letter in LETTERS),
        dataset=DATASET,
        category=str(row["category"]).strip(),
    )


def _place(image: str, folder: Path) -> Picture:
    try:
        data = base64.b64decode(image, validate=True)
    except binascii.Error as error:
        raise Unusable("unreadable picture", f"not base64: {error}") from error
    return to_file(data, folder)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    check_columns(path, parquet.names(path), HR_BENCH_COLUMNS)
    yield from parquet.rows(path, HR_BENCH_COLUMNS)


def _tsv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with io.TextIOWrapper(regular.opened(path), encoding="utf-8", newline="") as file:
        table = csv.DictReader(file, delimiter="\t")
        try:
            check_columns(path, table.fieldnames or (), HR_BENCH_COLUMNS)
            yield from table
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {table.line_num}: {error}") from error
