"""Offline resolution selection: at which size each record of a set is shown in Stage I.

    answer   the first level of its pyramid whose answer diverges from the original's (see levels)
    hard     always the harshest level
    random   any level but the original, drawn by seed and record
    none     the original: no gap, the baseline

Records go through in chunks. In a chunk all open questions of all records are asked at once, in as
many rounds as the search needs. Each decided record is one line of a journal, written before the
next chunk begins: after a kill the same command goes on behind the last whole line, and what it
writes in the end is the same to the byte. Several processes keep a journal each, of their share.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lfpc_jax.data.losses import Loss, Unusable
from lfpc_jax.data.pictures import measured
from lfpc_jax.infogap.levels import (
    HARSHEST,
    Answer,
    Decision,
    Search,
    needed,
    pyramid,
)
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.trajectory import Record

Strategy = Literal["answer", "hard", "random", "none"]
Ask = Callable[[Sequence[Record]], Sequence[Sequence[Answer] | Loss]]
"""The answers to each question, shown at its `longest_side`, or why it cannot be asked."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How sizes are selected; `n_answers` and `threshold` as in levels."""

    strategy: Strategy = "answer"
    search: Search = "scan"
    n_answers: int = 1
    threshold: float = 0.5
    harshest: int = HARSHEST
    seed: int = 0
    chunk: int = 256

    def __post_init__(self) -> None:
        if min(self.n_answers, self.chunk) < 1 or not 0 < self.threshold <= 1:
            raise ValueError(
                f"{self}: n_answers and chunk must be at least 1, threshold within 0..1"
            )
        if self.harshest < 28:
            raise ValueError(f"harshest level of {self.harshest} pixels; an image token has 28")


@dataclass(frozen=True)
class Selected:
    """A record's choice. `sides` are its pyramid's longest sides, `answers` what each level that
    was asked gave, by its number as text, so that a choice can be made again without the model."""

    id: str
    longest_side: int | None
    level: int
    diverged: bool
    sides: tuple[int, ...]
    answers: dict[str, tuple[Answer, ...]]


def select(
    records: Iterable[Record],
    ask: Ask,
    processor: ImageProcessor,
    settings: Settings,
    journal: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Selected | Loss]:
    """The choice for every record, in order, from the journal as far as it goes."""
    done = list(_read_journal(journal, settings))
    advance(len(done))
    ahead = iter(records)
    for old in done:
        record = next(ahead, None)
        name = old.record if isinstance(old, Loss) else old.id
        if record is None or record.id != name:
            raise ValueError(
                f"{journal}: goes on with record {name!r} where the set has "
                f"{None if record is None else record.id!r}; it is of another set or order: "
                "remove it, or select into another folder"
            )
    with journal.open("ab") as file:
        while chunk := [record for _, record in zip(range(settings.chunk), ahead)]:
            made = _chunk(chunk, ask, processor, settings)
            file.write(b"".join(_line(one) for one in made))
            file.flush()
            os.fsync(file.fileno())
            done += made
            advance(len(made))
    return done


def _chunk(
    records: Sequence[Record], ask: Ask, processor: ImageProcessor, settings: Settings
) -> list[Selected | Loss]:
    made: dict[int, Selected | Loss] = {}
    open_: dict[int, _Open] = {}
    for place, record in enumerate(records):
        try:
            sides = pyramid(measured(record.picture), processor, settings.harshest)
        except Unusable as error:
            made[place] = Loss.of(record.id, error)
            continue
        if settings.strategy == "answer":
            open_[place] = _Open(record, sides, {})
        else:
            made[place] = _without_asking(record, sides, settings)
    while open_:
        wanted = []
        for place, one in list(open_.items()):
            step = needed(
                one.answers, len(one.sides), settings.search, one.record, settings.threshold
            )
            if isinstance(step, Decision):
                made[place] = one.selected(step)
                del open_[place]
            else:
                wanted += [(place, level) for level in step]
        questions = [open_[place].question(level) for place, level in wanted]
        for (place, level), found in zip(wanted, ask(questions) if questions else (), strict=True):
            if isinstance(found, Loss):
                made[place] = replace(found, record=records[place].id)
                open_.pop(place, None)
            elif place in open_:
                open_[place].answers[level] = tuple(found)
    return [made[place] for place in range(len(records))]


@dataclass(frozen=True)
class _Open:
    """A record whose level is being looked for."""

    record: Record
    sides: tuple[int, ...]
    answers: dict[int, tuple[Answer, ...]]

    def question(self, level: int) -> Record:
        side = self.sides[level] if level else None
        return replace(self.record, id=f"{self.record.id}@{self.sides[level]}", longest_side=side)

    def selected(self, decision: Decision) -> Selected:
        answers = {str(level): found for level, found in sorted(self.answers.items())}
        return _selected(self.record, self.sides, decision, answers)


def _without_asking(record: Record, sides: tuple[int, ...], settings: Settings) -> Selected:
    level = 0
    if settings.strategy == "hard":
        level = len(sides) - 1
    elif settings.strategy == "random" and len(sides) > 1:
        name = f"{settings.seed}\0{record.id}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
        level = 1 + number % (len(sides) - 1)
    return _selected(record, sides, Decision(level, diverged=False), {})


def _selected(
    record: Record, sides: tuple[int, ...], decision: Decision, answers: dict[str, Any]
) -> Selected:
    side = sides[decision.level] if decision.level else None
    return Selected(record.id, side, decision.level, decision.diverged, sides, answers)


def _line(one: Selected | Loss) -> bytes:
    kind = "lost" if isinstance(one, Loss) else "selected"
    return json.dumps({kind: asdict(one)}, ensure_ascii=True).encode() + b"\n"


def _read_journal(path: Path, settings: Settings) -> Iterator[Selected | Loss]:
    """The whole lines, once the rest of a line that a kill cut short has been removed. The first
    line holds the settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"settings": asdict(settings)}).encode() + b"\n"
    old = path.read_bytes() if path.exists() else b""
    whole = old[: old.rfind(b"\n") + 1]
    if not whole:
        path.write_bytes(head)
        return
    if whole.split(b"\n", 1)[0] + b"\n" != head:
        raise ValueError(
            f"{path}: was begun with other settings; remove it, or select into another folder"
        )
    if len(whole) < len(old):
        log.warning("%s: its last line was cut short and is made again", path)
        os.truncate(path, len(whole))
    for line in whole[len(head) :].splitlines():
        entry = json.loads(line)
        if "lost" in entry:
            yield Loss(**entry["lost"])
        else:
            found = entry["selected"]
            answers = {level: tuple(given) for level, given in found["answers"].items()}
            yield Selected(**found | {"sides": tuple(found["sides"]), "answers": answers})
