"""One line that identifies a set of records, so that a run or an evaluation that resumes notices
when its data has changed.

The digest covers all that training or an answer depends on: every field of every record, in their
order. A picture that is a file counts by its name and its length in bytes. That costs one look at
the folder a picture, where reading thousands of large originals would take minutes. So a set may be
moved as a whole, but a picture that is replaced by another of exactly the same length goes
unnoticed. Embedded pictures count by their bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lfpc_jax.trajectory import Picture, Record


def digest(records: Iterable[Record]) -> str:
    """The same for the same records in the same order, on any host."""
    return _sha256(json.dumps([record.entry(), _look(record.picture)]) for record in records)


def digest_by_place(records: Iterable[Record]) -> str:
    """The digest of evaluations that began before `digest` was there: pictures by their path
    alone."""
    return _sha256(
        json.dumps(record.entry() | {"picture": asdict(Picture(path=record.picture.path))})
        for record in records
    )


def _look(picture: Picture) -> Any:
    if picture.data is not None:
        return hashlib.sha256(picture.data).hexdigest()
    if picture.path is None:
        return None
    return [os.path.basename(picture.path), os.stat(picture.path).st_size]


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
