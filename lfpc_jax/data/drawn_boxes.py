"""Target boxes that a person or a tool drew, read from a JSON file and given to a set's records."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lfpc_jax.data import audit
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.jsonfile import OTHER_SHAPE, read_object
from lfpc_jax.trajectory import Box4, Nests, Record


def read_boxes(file: Path) -> Mapping[str, Nests]:
    """The boxes of each record, by its id."""
    boxes: dict[str, Nests] = {}
    for name, value in read_object(file).items():
        try:
            boxes[name] = tuple(tuple(_box(box) for box in nest) for nest in value)
        except OTHER_SHAPE as error:
            raise ValueError(
                f"{file}, {name!r}: {error}; write a list of things, each a list of boxes "
                "[x1, y1, x2, y2], the smallest first"
            ) from error
    return boxes


def with_boxes(
    entries: Iterable[Record | Rejected], boxes: Mapping[str, Nests]
) -> Iterator[Record | Rejected]:
    """The records that `boxes` has an entry for, with these as their targets. Boxes that do not fit
    their picture are rejected."""
    for entry in entries:
        if isinstance(entry, Rejected) or entry.id not in boxes:
            continue
        boxed = replace(entry, targets=boxes[entry.id])
        try:
            audit.check(boxed)
        except Unusable as error:
            yield Rejected.of(entry.id, error)
        else:
            yield boxed


def _box(value: Any) -> Box4:
    x1, y1, x2, y2 = map(float, value)
    return x1, y1, x2, y2
