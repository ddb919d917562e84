"""A journal: what was found out about the records of a set, one line a record, in their order.

The first line holds everything that the others depend on; a command that differs in it is refused
and told in what. Lines are on disk before the next records are worked on. If interrupted, the same
command resumes after the last whole line, and its journal is the same to the byte.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from lfpc_jax import regular
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.jsonfile import OTHER_SHAPE, expecting
from lfpc_jax.trajectory import Record

log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 34


@runtime_checkable
class JournalEntry(Protocol):
    """A dataclass that says which record it is about."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...


T = TypeVar("T")
E = TypeVar("E", bound=JournalEntry)


@dataclass(frozen=True)
class RecordJournal(Generic[E]):
    """The journal of one process. An entry, a dataclass, is a line under the name `kind`; `entry`
    makes it again from its fields. A record that was lost is a line, too. `about` is everything
    that entries depend on, and `format` the version of their meaning."""

    path: Path
    about: Mapping[str, Any]
    kind: str
    format: int
    entry: Callable[[Mapping[str, Any]], E]

    def check(self) -> None:
        """Raises ValueError for a journal that was begun with something else. One whose first line
        was cut short was not begun."""
        if lines := self._lines():
            self._check_begun(lines[0])

    def resume(self, records: Sequence[Record], *, together: int = 1) -> list[E | Rejected]:
        """What the journal holds of the records, which are those of its process in their order.
        The rest of a line that an interruption cut short is removed. So is what there is of
        `together` records, if these were not all reached."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head, *lines = self._lines() or [b""]
        if not head:
            self.path.write_bytes(self._head + b"\n")
            return []
        self._check_begun(head)
        if len(lines) < len(records):
            lines = lines[: len(lines) // together * together]
        whole = len(head) + sum(map(len, lines))
        if whole < self.path.stat().st_size:
            log.warning("%s: its end was cut short and is made again", self.path)
            os.truncate(self.path, whole)
        done = [self._entry(line) for line in lines]
        self._check_order(done, records)
        return done

    def read(self, records: Sequence[Record]) -> list[E | Rejected]:
        """All that the journal holds; nothing is changed. Raises ValueError unless these are
        exactly the records."""
        self.check()
        done = [self._entry(line) for line in self._lines()[1:]]
        self._check_order(done, records)
        if len(done) < len(records):
            raise ValueError(
                f"{self.path}: has {len(done)} of {len(records)} records; rerun the command that "
                "writes it until it has finished"
            )
        return done

    def add(self, entries: Iterable[E | Rejected]) -> None:
        """Once this returns, no interruption loses the entries."""
        with self.path.open("ab") as file:
            file.write(b"".join(map(self._line, entries)))
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[bytes]:
        """The whole lines, the head among them."""
        old = regular.contents(self.path, _MOST_BYTES) if self.path.exists() else b""
        return old[: old.rfind(b"\n") + 1].splitlines(keepends=True)

    def _entry(self, line: bytes) -> E | Rejected:
        with expecting(f"line of {self.kind}", self.path):
            fields = json.loads(line)
            return Rejected(**fields["lost"]) if "lost" in fields else self.entry(fields[self.kind])

    def _check_order(self, done: Sequence[E | Rejected], records: Sequence[Record]) -> None:
        for place, entry in enumerate(done):
            name = entry.record if isinstance(entry, Rejected) else entry.id
            expected = records[place].id if place < len(records) else None
            if expected != name:
                raise ValueError(
                    f"{self.path}: continues with record {name!r} where the set has {expected!r}; "
                    "it is of another set or order: remove it, or choose another folder"
                )

    @property
    def _head(self) -> bytes:
        return json.dumps({"format": self.format, "about": dict(self.about)}).encode()

    def _line(self, entry: E | Rejected) -> bytes:
        kind = "lost" if isinstance(entry, Rejected) else self.kind
        return json.dumps({kind: asdict(entry)}, ensure_ascii=True).encode() + b"\n"

    def _check_begun(self, first: bytes) -> None:
        with expecting("beginning of a journal", self.path):
            old, now = dict(json.loads(first)), json.loads(self._head)["about"]
            before = dict(old["about"]) if old.get("format") == self.format else {}
        anew = f"remove the journals of {self.path.parent} to begin anew, or choose another folder"
        if old.get("format") != self.format:
            raise ValueError(
                f"{self.path}: was begun by an earlier version (format {old.get('format')}, now "
                f"{self.format}), whose lines mean something else; {anew}"
            )
        changed = [name for name in sorted(before.keys() | now.keys())
                   if before.get(name) != now.get(name)]  # fmt: skip
        if changed:
            told = ", ".join(
                f"{name} (was {before.get(name)}, now {now.get(name)})" for name in changed
            )
            raise ValueError(
                f"{self.path}: was begun with another {told}; resume with what it was begun with, "
                f"or {anew}"
            )


def about_of(path: Path) -> dict[str, Any]:
    """Everything that the entries of a journal depend on, as its first line says."""
    head, *_ = (regular.contents(path, _MOST_BYTES) if path.exists() else b"").partition(b"\n")
    try:
        return dict(json.loads(head)["about"])
    except OTHER_SHAPE:
        raise ValueError(f"{path}: missing, or not the beginning of a journal") from None


def joined(shares: Sequence[Sequence[T]], together: int = 1) -> list[T]:
    """The entries of all processes in the order of the set, of which every process in turn took
    `together` records."""
    chunks = [
        [share[first : first + together] for first in range(0, len(share), together)]
        for share in shares
    ]
    count = sum(map(len, chunks))
    return [
        entry
        for place in range(count)
        for entry in chunks[place % len(chunks)][place // len(chunks)]
    ]
