"""Labels for imitation: of every box of a grid, the one with which a frozen target model finds the
right answer most likely.

Likelihoods are the slow part. They are measured once, in chunks of records, and all are kept in a
journal; labels follow from them by a `Rule`, which may be changed later without the target. A chunk
always holds the same records, whatever the number of processes and wherever a command was
interrupted, because the last digits of a likelihood may depend on what is computed beside it.

Boxes whose likelihoods differ by no more than `Rule.within` count as equally good. Of these the
rule takes the smallest, since what the larger ones add does not help; of equally small ones the
first in the grid's order. How many there were is kept with the label.
"""

import base64
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float32

from lfpc_jax.cropvlm.grid import FACTORS, cells, expanded, in_pixels, widened
from lfpc_jax.cropvlm.target import Question, Target
from lfpc_jax.data import pictures
from lfpc_jax.data.journal import RecordJournal, about_of, joined
from lfpc_jax.data.rejected import Reason, Rejected, Unusable, check_share
from lfpc_jax.processing.geometry import Box, area, hull
from lfpc_jax.trajectory import Box4, Picture, Record, Size

FORMAT = 1

Ties = Literal["smallest", "largest"]
Source = Literal["grid", "outside", "truth"]
"""Where boxes come from: the grid, or the set's own target boxes, which are expanded if they are
those of an outside model and left as tight as they are if they are the truth."""


@dataclass(frozen=True)
class Rule:
    """How likelihoods become labels. `within` is in nats. Each side is moved outwards by up to
    `noise` cells, drawn from the seed and the record. `factors` multiply the areas of outside
    boxes (see `grid.expanded`)."""

    within: float = 1e-4
    ties: Ties = "smallest"
    noise: float = 1.0
    seed: int = 0
    factors: tuple[float, ...] = FACTORS

    def __post_init__(self) -> None:
        if not all(0 <= size < math.inf for size in (self.within, self.noise)):
            raise ValueError(f"{self}: within and noise must not be negative, and be finite")
        if not self.factors or min(self.factors) < 1:
            raise ValueError(f"{self}: factors must be given, and all at least 1")


@dataclass(frozen=True)
class Measured:
    """The log-likelihoods of a record's answer with every box of the grid, in its order, as base64
    of little-endian float32; and without a crop, None where the target always sees one. `size` is
    that of the original."""

    id: str
    size: Size
    values: str
    without: float | None

    @classmethod
    def of(cls, record: str, size: Size, values: Sequence[float], without: float | None):
        data = np.asarray(values, "<f4").tobytes()
        return cls(record, size, base64.b64encode(data).decode(), without)

    @cached_property
    def likelihoods(self) -> Float32[np.ndarray, "boxes"]:
        return np.frombuffer(base64.b64decode(self.values), "<f4").astype(np.float32)


@dataclass(frozen=True)
class Label:
    """A record's label, in pixels of the original: `best` as it was found, and `box` after it was
    widened or expanded. Of a grid, `ties` counts the boxes that are as good as the best, itself
    included, and the likelihoods are those with the best box, with the whole image as the crop, and
    without a crop."""

    id: str
    size: Size
    best: Box4
    box: Box4
    ties: int = 1
    likelihood: float | None = None
    whole: float | None = None
    without: float | None = None


# -------------------------------------------------------------------- likelihoods


@dataclass(frozen=True)
class Measuring:
    """What is measured, and by whom. `about` names everything that a likelihood depends on beside
    the grid: the target, how it is asked, and about which records."""

    target: Target
    about: Mapping[str, Any]
    grid: int = 5
    chunk: int = 16
    shows_nothing: bool = True
    """Whether the target may be asked without a crop."""

    def __post_init__(self) -> None:
        if min(self.grid, self.chunk) < 1:
            raise ValueError(f"grid {self.grid}, chunk {self.chunk}: both must be at least 1")

    def journal(self, folder: Path, process: int, processes: int) -> RecordJournal[Measured]:
        shares = {"grid": self.grid, "chunk": self.chunk, "processes": processes}
        return _journal(_file(folder, process), dict(self.about) | shares)

    def measure(
        self,
        share: Sequence[Record],
        done: Sequence[Measured | Rejected],
        journal: RecordJournal[Measured],
        *,
        name: str,
        max_lost: float,
        still_ours: Callable[[], None] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, float]]:
        """Adds to the journal what is not `done` of this process's share. Yields, whenever a chunk
        is on disk, how many records it has and how many seconds it took. Raises `TooManyLost` as
        soon as more than `max_lost` of the share cannot be asked. `still_ours` raises, before a
        write, if the journal now belongs to another command. Once `stop` says so, it leaves the
        chunk that it is at."""
        lost = [entry for entry in done if isinstance(entry, Rejected)]
        for chunk in in_chunks(share[len(done) :], self.chunk):
            began = time.perf_counter()
            entries = []
            for entry in self._measured(chunk):
                if stop():
                    return
                entries.append(entry)
            still_ours()
            journal.add(entries)
            lost += [entry for entry in entries if isinstance(entry, Rejected)]
            check_share(name, lost, len(share), max_lost)
            yield len(chunk), time.perf_counter() - began

    def _measured(self, records: Sequence[Record]) -> Iterator[Measured | Rejected]:
        sizes = {record.id: _size(record) for record in records}
        asked = [
            self._question(record, size)
            for record in records
            if not isinstance(size := sizes[record.id], Rejected)
        ]
        given = self.target.likelihoods(asked)
        for record in records:
            size = sizes[record.id]
            if isinstance(size, Rejected):
                yield size
                continue
            likelihoods = next(given)
            faults = [each.fault for each in likelihoods if each.fault]
            values = [each.total for each in likelihoods if each.total is not None]
            if faults:
                cause, _, detail = faults[0].partition(": ")
                known = cause in get_args(Reason)
                reason = cast(Reason, cause) if known else "cannot be asked"
                yield Rejected(record.id, reason, detail)
            elif not np.isfinite(values).all():
                yield Rejected(record.id, "cannot be asked", f"its likelihoods are {set(values)}")
            else:
                without = values[0] if self.shows_nothing else None
                yield Measured.of(record.id, size, values[self.shows_nothing :], without)

    def _question(self, record: Record, size: Size) -> Question:
        boxes = tuple(in_pixels(cell, self.grid, size) for cell in cells(self.grid))
        return Question(record, ((None,) if self.shows_nothing else ()) + boxes)


def in_chunks(records: Sequence[Record], chunk: int) -> list[Sequence[Record]]:
    return [records[first : first + chunk] for first in range(0, len(records), chunk)]


def measured_in(
    folder: Path, records: Sequence[Record], digest: str
) -> tuple[dict[str, Any], list[Measured | Rejected]]:
    """What the journals of a folder hold, in the order of the set, and what that depends on. Raises
    ValueError unless they are complete and of these records, whose digest is given."""
    about = about_of(_file(folder, 0))
    if about.get("records") != digest:
        raise ValueError(
            f"{folder}: its likelihoods are of other records than these ({about.get('records')}, "
            f"now {digest}); name the set that it was made of"
        )
    shares = []
    chunks = in_chunks(records, about["chunk"])
    for process in range(about["processes"]):
        share = [record for chunk in chunks[process :: about["processes"]] for record in chunk]
        shares.append(_journal(_file(folder, process), about).read(share))
    return about, joined(shares, about["chunk"])


def _journal(path: Path, about: Mapping[str, Any]) -> RecordJournal[Measured]:
    return RecordJournal(path, about, "measured", FORMAT, _measured_again)


def _measured_again(fields: Mapping[str, Any]) -> Measured:
    return Measured(**dict(fields) | {"size": tuple(fields["size"])})


def _file(folder: Path, process: int) -> Path:
    return folder / f"journal-{process}.jsonl"


def _size(record: Record) -> Size | Rejected:
    if record.picture == Picture():
        return Rejected(record.id, "nothing to crop", "a question in text alone")
    try:
        return pictures.size(record.picture)
    except Unusable as error:
        return Rejected.of(record.id, error)


# -------------------------------------------------------------------- labels


def label_of(measured: Measured, grid: int, rule: Rule) -> Label:
    """The best box of a grid by the rule, widened."""
    every = cells(grid)
    values = measured.likelihoods
    if len(values) != len(every):
        raise ValueError(
            f"record {measured.id!r}: {len(values)} likelihoods for the {len(every)} boxes of a "
            f"grid of {grid} x {grid}"
        )
    tied = np.flatnonzero(values >= values.max() - np.float32(rule.within)).tolist()
    sign = 1 if rule.ties == "smallest" else -1
    chosen = min(tied, key=lambda number: sign * area(every[number]))
    best = in_pixels(every[chosen], grid, measured.size)
    box = widened(best, measured.size, rule.noise / grid, seed=rule.seed, record=measured.id)
    whole = values[every.index(Box(0, 0, grid, grid))]
    return Label(
        measured.id,
        measured.size,
        best,
        box,
        len(tied),
        float(values[chosen]),
        float(whole),
        measured.without,
    )


def labels_of_target_boxes(
    records: Sequence[Record], source: Source, grid: int, rule: Rule
) -> list[Label | Rejected]:
    """Labels from the records' own target boxes: the smallest box around all of a record's,
    expanded over all of the set if they are an outside model's, and widened if the rule says so."""
    sizes: list[Size | Rejected] = []
    for record in records:
        size = _size(record)
        if not isinstance(size, Rejected) and not record.targets:
            size = Rejected(record.id, "no target", "its set has no box for it")
        sizes.append(size)
    kept = [
        (record, size) for record, size in zip(records, sizes) if not isinstance(size, Rejected)
    ]
    tight = [hull(Box(*nest[0]) for nest in record.targets) for record, _ in kept]
    wide = tight
    if source == "outside":
        wide = expanded(tight, [size for _, size in kept], rule.factors)
    labels = iter([
        Label(
            record.id, size, best,
            widened(box, size, rule.noise / grid, seed=rule.seed, record=record.id),
        )
        for (record, size), best, box in zip(kept, tight, wide, strict=True)
    ])  # fmt: skip
    return [size if isinstance(size, Rejected) else next(labels) for size in sizes]
