"""A mixture of sets as one endless stream of batches: shuffled, sharded, resumable.

The stream is an infinite sequence of positions. Grain decides which record stands at each: sets are
interleaved by weight, and each is shuffled anew every epoch. Batch `k` holds the positions from
`k * batch` on. Each process takes consecutive positions of every batch (`share`). So:
- the batches of all processes, concatenated in the order of the processes, are the batch of a
  single process;
- the state is the number of batches taken, which is the same in every process and valid for another
  number of processes;
- a restored stream gives the batches that the saved stream would have given.

`prepare` runs in Grain's threads, where Pillow decodes and resizes without holding Python's lock.
Once a batch is taken, the threads prepare the next one. Nothing is opened earlier than that. A
record that fails there is counted, and the next sound record of its set takes its place, so that
batches stay full and positions keep their meaning.
"""

import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import grain
import numpy as np

from lfpc_jax.data.rejected import MAX_SHARE, Rejected, Unusable, check_share
from lfpc_jax.trajectory import Record

T = TypeVar("T")

_VERSION = 1


@dataclass(frozen=True)
class MixedSet:
    """A set in a mixture. `weight` over the sum of weights is its share of the records drawn, and
    `max_share` is the share of its records that may fail to open."""

    name: str
    records: Sequence[Record]
    weight: float = 1.0
    max_share: float = MAX_SHARE


class Stream(Generic[T]):
    """Endless batches of prepared records, with a state that can be saved and restored.

    `prepare` raises `Unusable` for a record that it cannot prepare."""

    def __init__(
        self,
        parts: Sequence[MixedSet],
        prepare: Callable[[Record], T],
        *,
        batch: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        threads: int = 4,
    ) -> None:
        if not 0 <= process < processes <= batch:
            raise ValueError(
                f"batch of {batch} for process {process} of {processes}: processes count from 0, "
                "and each needs at least one place in the batch"
            )
        names = [part.name for part in parts]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a mixture of {names}: give at least one set, and each another name")
        for part in parts:
            if part.weight <= 0 or not len(part.records):
                raise ValueError(
                    f"{part.name}: weight {part.weight}, {len(part.records)} records; "
                    "both must be positive: leave the set out instead"
                )
        self._identity = {
            "version": _VERSION,
            "seed": seed,
            "batch": batch,
            "parts": [[part.name, len(part.records), part.weight] for part in parts],
        }
        local = share(batch, process, processes)
        self._local_batch = len(local)
        self._rows = _Rows(parts, prepare, seed, batch, local)
        self._threads = threads
        self._taken = 0
        self._open()

    def __iter__(self) -> Iterator[tuple[T, ...]]:
        return self

    def __next__(self) -> tuple[T, ...]:
        batch = tuple(itertools.islice(self._items, self._local_batch))
        self._taken += 1
        return batch

    def get_state(self) -> bytes:
        """JSON: where the next batch begins, and which stream this is."""
        return json.dumps(self._identity | {"taken": self._taken}).encode()

    def set_state(self, state: bytes) -> None:
        saved = json.loads(state)
        for key, value in self._identity.items():
            if saved.get(key) != value:
                raise ValueError(
                    f"data state: saved with {key} {saved.get(key)!r}, but this stream has "
                    f"{value!r}; restore it with the mixture, seed and batch it was saved with"
                )
        self.close()
        self._taken = saved["taken"]
        self._open()

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The records that this process failed to prepare, each once."""
        return self._rows.rejected

    def close(self) -> None:
        """Stops reading ahead."""
        self._items.close()

    def _open(self) -> None:
        ahead = grain.ReadOptions(
            num_threads=self._threads,
            prefetch_buffer_size=max(self._local_batch, 2 * self._threads),
        )
        rows = grain.MapDataset.source(self._rows)[self._taken * self._local_batch :]
        self._items = iter(rows.to_iter_dataset(ahead))


def in_turn(sets: Sequence[Sequence[Record]], most: int) -> list[Record]:
    """The first `most` records, taken from the sets in turn, so that a large set does not hide a
    small one. When a set has no more, the others continue."""
    rounds = itertools.zip_longest(*sets)
    records = (record for taken in rounds for record in taken if record is not None)
    return list(itertools.islice(records, most))


def share(batch: int, process: int, processes: int) -> range:
    """The positions in every batch that belong to a process. Processes differ by at most one."""
    return range(batch * process // processes, batch * (process + 1) // processes)


class _Rows(Generic[T]):
    """This process's part of the stream in its order, as a random-access source for Grain."""

    def __init__(
        self,
        parts: Sequence[MixedSet],
        prepare: Callable[[Record], T],
        seed: int,
        batch: int,
        local: range,
    ) -> None:
        self._parts, self._prepare = tuple(parts), prepare
        self._batch, self._local = batch, local
        self._stream = _stream(parts, seed)
        self._rejected: tuple[dict[int, Rejected], ...] = tuple({} for _ in parts)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sys.maxsize // self._batch * len(self._local)

    def __getitem__(self, index: int) -> T:
        number, place = divmod(index, len(self._local))
        part, row = self._stream[number * self._batch + self._local[place]]
        length = len(self._parts[part].records)
        for candidate in range(row, row + length):
            prepared = self._prepared(part, candidate % length)
            if prepared is not None:
                return prepared
        raise AssertionError("a set without a sound record has lost more than any share")

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        with self._lock:
            return tuple(entry for of_part in self._rejected for entry in of_part.values())

    def _prepared(self, part: int, row: int) -> T | None:
        """None for a record that is rejected, now or earlier."""
        if row in self._rejected[part]:
            return None
        record = self._parts[part].records[row]
        try:
            return self._prepare(record)
        except Unusable as error:
            with self._lock:
                rejected = self._rejected[part]
                rejected[row] = Rejected.of(record.id, error)
                name, limit = self._parts[part].name, self._parts[part].max_share
                check_share(name, tuple(rejected.values()), len(self._parts[part].records), limit)
            return None


def _stream(parts: Sequence[MixedSet], seed: int) -> grain.MapDataset:
    """The endless sequence of (number of the part, row in it)."""
    seeds = np.random.SeedSequence(seed).generate_state(len(parts))
    orders = []
    for number, (part, shuffled_by) in enumerate(zip(parts, seeds)):
        order = grain.MapDataset.range(len(part.records)).shuffle(seed=int(shuffled_by)).repeat()
        orders.append(order.map(lambda row, number=number: (number, row)))
    return grain.MapDataset.mix(orders, weights=[part.weight for part in parts])
