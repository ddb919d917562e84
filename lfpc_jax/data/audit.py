"""Checks what a reader yields, and keeps the records that may be used.

Before a run starts, the audit finds missing files, truncated files, boxes outside their picture and
empty texts; it finds the same ones in every process. It does not decode JPEGs, which most originals
are. Faults that only decoding shows are found later, by the pipeline. Pillow decodes a JPEG that
lacks a piece of its middle without complaint, so nothing finds such a file.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from lfpc_jax.data.pictures import measured
from lfpc_jax.data.rejected import MAX_SHARE, Rejected, Unusable, check_share, summary
from lfpc_jax.trajectory import Box4, Picture, Record, Size

_EMBEDDED_LIMIT = 2**30
_VQA_LEAST = 4
"""With fewer references no answer has a VQA accuracy of 1."""


@dataclass(frozen=True)
class Audited:
    """A set's usable records in their order, and the records that were left out."""

    name: str
    records: tuple[Record, ...]
    rejected: tuple[Rejected, ...]


def audit(
    entries: Iterable[Record | Rejected], *, name: str, max_share: float = MAX_SHARE
) -> Audited:
    """Keeps the sound records, and raises `TooManyLost` if more than `max_share` are not sound.
    Unsuited rows (`rejected.UNSUITED`) are among the rejected and count neither way.

    Pictures that are files stay files. Embedded pictures are kept in memory, so a large set of them
    is refused: write it to the layout once, which streams, and audit that.
    """
    records: list[Record] = []
    rejected: list[Rejected] = []
    seen: set[str] = set()
    embedded = 0
    for entry in entries:
        if isinstance(entry, Rejected):
            rejected.append(entry)
            continue
        try:
            check(entry)
            if entry.id in seen:
                raise Unusable("duplicate id", "another record of the set has this id")
        except Unusable as error:
            rejected.append(Rejected.of(entry.id, error))
            continue
        seen.add(entry.id)
        records.append(entry)
        embedded += len(entry.picture.data or b"")
        if embedded > _EMBEDDED_LIMIT:
            raise ValueError(
                f"{name}: the first {len(records)} records embed {embedded / 2**30:.1f} GiB of "
                "pictures; write the set to files once with lfpc_jax.data.layout.write"
            )
    total = len(records) + len(rejected)
    check_share(name, rejected, total, max_share)
    if not records:
        raise ValueError(
            f"{name}: no records (left out: {summary(rejected)}); is this the set's folder or file?"
        )
    return Audited(name, tuple(records), tuple(rejected))


def check(record: Record) -> None:
    """Raises `Unusable` for a record that cannot be asked, scored or shown. A record without a
    picture is a question in text alone, and is sound."""
    if not record.question.strip():
        raise Unusable("empty question", repr(record.question))
    if not record.answer.strip():
        raise Unusable("empty answer", repr(record.answer))
    if record.options:
        _check_options(record)
    if record.graded:
        _check_references(record)
    if record.picture == Picture():
        if record.targets:
            raise Unusable("box outside picture", "there is no picture")
        return
    size = measured(record.picture)
    for nest in record.targets:
        _check_nest(nest, size)


def _check_options(record: Record) -> None:
    letters = [chr(ord("A") + place) for place in range(len(record.options))]
    if len(letters) < 2 or record.answer not in letters:
        raise Unusable(
            "wrong options", f"answer {record.answer!r} is not one of the letters {letters}"
        )
    if not all(text.strip() for text in record.options):
        raise Unusable("wrong options", f"an option of {list(record.options)} is empty")


def _check_references(record: Record) -> None:
    count = len(record.references)
    if record.options:
        raise Unusable("wrong options", f"options are scored by rules, not by {record.metric}")
    if count < (_VQA_LEAST if record.metric == "vqa" else 1):
        raise Unusable("too few references", f"{count}, for an answer scored by {record.metric}")


def _check_nest(nest: tuple[Box4, ...], size: Size) -> None:
    if not nest:
        raise Unusable("box outside picture", "a target has no box")
    for box in nest:
        x1, y1, x2, y2 = box
        inside = 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
        if not (inside and all(map(math.isfinite, box))):
            raise Unusable("box outside picture", f"{box} in {size[0]}x{size[1]}")
    for inner, outer in itertools.pairwise(nest):
        if inner[0] < outer[0] or inner[1] < outer[1] or inner[2] > outer[2] or inner[3] > outer[3]:
            raise Unusable("boxes not nested", f"{inner} is not inside {outer}")
