"""Offline resolution selection: at which size each record of a set is shown in Stage I.

    answer   the first level of its pyramid whose answer diverges from the original's (see levels)
    hard     always the harshest level
    random   any level but the original, drawn by seed and record
    none     the original: no gap, the baseline

A question without a picture has no sizes and passes unchanged.

Records are processed in chunks. All open questions of a chunk are asked together, in as many rounds
as the search needs. Every decided record is a line of a journal, written before the next chunk
begins. If interrupted, rerun the same command: it resumes after the last whole line, and its output
is the same to the byte. Each of several processes keeps a journal of its share. The first line of a
journal holds everything that a choice depends on; a selection that differs in it is refused.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from lfpc_jax.data.journal import RecordJournal
from lfpc_jax.data.pictures import measured
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.infogap.agreement import Agreement, Answer, Judges, Same
from lfpc_jax.infogap.levels import (
    HARSHEST,
    Decision,
    Search,
    compared,
    needed,
    pairs_at_first,
    pairs_with_usual,
    pyramid,
    usual,
)
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.stopping import Interrupted
from lfpc_jax.trajectory import Picture, Record

Strategy = Literal["answer", "hard", "random", "none"]
Ask = Callable[[Sequence[Record]], Sequence[Sequence[Answer] | Rejected]]
"""The answers to each question, shown at its `longest_side`, or why it cannot be asked."""

FORMAT = 2


@dataclass(frozen=True)
class Settings:
    """How sizes are selected. `n_answers` and `threshold` are explained in `levels`, `exact` in
    `agreement`."""

    strategy: Strategy = "answer"
    search: Search = "scan"
    n_answers: int = 1
    threshold: float = 0.5
    exact: bool = False
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
    """The choice for one record. `sides` are the longest sides of its pyramid, none without a
    picture. `answers` are those of each level that was asked, by the level's number as text, and
    `agree` says of each whether it says the same as the `usual` answer of level 0. With these a
    choice can be made again without the model or the judge. An `unanswered` record has no answer at
    level 0, so its gap was not measured."""

    id: str
    longest_side: int | None
    level: int
    diverged: bool
    sides: tuple[int, ...]
    answers: dict[str, tuple[Answer, ...]]
    unanswered: bool = False
    usual: Answer = None
    agree: dict[str, tuple[bool | None, ...]] = field(default_factory=dict)


def select(
    records: Sequence[Record],
    ask: Ask,
    processor: ImageProcessor,
    settings: Settings,
    journal: Path,
    advance: Callable[[int], None] = lambda _: None,
    *,
    judge: Judges | None = None,
    about: Mapping[str, Any] | None = None,
    still_ours: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Selected | Rejected]:
    """The choice for every record, in order. What the journal holds already is not asked again.
    `about` names everything else that a choice depends on: who is asked, how, and about which
    records. `still_ours` raises, before a write, if the journal now belongs to another command.
    Once `stop` says so, only what was decided by then is kept and returned."""
    kept = _journal(journal, settings, about or {})
    done = kept.resume(records)
    advance(len(done))
    for first in range(len(done), len(records), settings.chunk):
        chunk = records[first : first + settings.chunk]
        choices = _chunk(chunk, ask, processor, settings, judge, stop)
        still_ours()
        kept.add(choices)
        done += choices
        advance(len(choices))
        if len(choices) < len(chunk) or stop():
            break
    return done


def check_journal(journal: Path, settings: Settings, about: Mapping[str, Any]) -> None:
    """Raises ValueError for a journal that another selection has begun, as `select` does."""
    _journal(journal, settings, about).check()


def _chunk(
    records: Sequence[Record],
    ask: Ask,
    processor: ImageProcessor,
    settings: Settings,
    judge: Judges | None,
    stop: Callable[[], bool],
) -> list[Selected | Rejected]:
    """The choices for the records of a chunk; if it was stopped, for the first of them that are
    decided."""
    agreement = Agreement(judge, exact=settings.exact)
    choices: dict[int, Selected | Rejected] = {}
    open_: dict[int, _Open] = {}
    for place, record in enumerate(records):
        if record.picture == Picture():
            choices[place] = Selected(record.id, None, 0, diverged=False, sides=(), answers={})
            continue
        try:
            sides = pyramid(measured(record.picture), processor, settings.harshest)
        except Unusable as error:
            choices[place] = Rejected.of(record.id, error)
            continue
        if settings.strategy == "answer":
            open_[place] = _Open(record, sides, {}, agreement.of(record))
        else:
            choices[place] = _without_asking(record, sides, settings)
    while open_:
        wanted = []
        for place, searched in list(open_.items()):
            step = needed(
                searched.answers,
                len(searched.sides),
                settings.search,
                searched.same,
                settings.threshold,
            )
            if isinstance(step, Decision):
                choices[place] = searched.selected(step)
                del open_[place]
            else:
                wanted += [(place, level) for level in step]
        questions = [open_[place].question(level) for place, level in wanted]
        try:
            told = _answered(questions, ask, stop)
        except Interrupted:
            break
        for (place, level), given in zip(wanted, told, strict=True):
            if isinstance(given, Rejected):
                choices[place] = replace(given, record=records[place].id)
                open_.pop(place, None)
            elif place in open_:
                open_[place].answers[level] = tuple(given)
        _settle(agreement, open_.values())
    decided = takewhile(choices.__contains__, range(len(records)))
    return [choices[place] for place in decided]


def _answered(
    questions: Sequence[Record], ask: Ask, stop: Callable[[], bool]
) -> Sequence[Sequence[Answer] | Rejected]:
    if stop():
        raise Interrupted
    return ask(questions) if questions else ()


def _settle(agreement: Agreement, records: Iterable["_Open"]) -> None:
    """Asks first what decides the usual answer at level 0, then what agrees with it."""
    searched = list(records)
    agreement.settle(
        (search.record, *pair) for search in searched for pair in pairs_at_first(search.answers)
    )
    agreement.settle(
        (search.record, *pair)
        for search in searched
        for pair in pairs_with_usual(search.answers, search.same)
    )


@dataclass(frozen=True)
class _Open:
    """A record whose level is still being searched."""

    record: Record
    sides: tuple[int, ...]
    answers: dict[int, tuple[Answer, ...]]
    same: Same

    def question(self, level: int) -> Record:
        side = self.sides[level] if level else None
        return replace(self.record, id=f"{self.record.id}@{self.sides[level]}", longest_side=side)

    def selected(self, decision: Decision) -> Selected:
        chosen = _selected(self.record, self.sides, decision)
        if not self.answers:
            return chosen
        agree = compared(self.answers, self.same)
        return replace(
            chosen,
            answers={str(level): given for level, given in sorted(self.answers.items())},
            usual=usual(self.answers[0], self.same),
            agree={str(level): verdicts for level, verdicts in sorted(agree.items())},
        )


def _without_asking(record: Record, sides: tuple[int, ...], settings: Settings) -> Selected:
    level = 0
    if settings.strategy == "hard":
        level = len(sides) - 1
    elif settings.strategy == "random" and len(sides) > 1:
        name = f"{settings.seed}\0{record.id}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
        level = 1 + number % (len(sides) - 1)
    return _selected(record, sides, Decision(level, diverged=False))


def _selected(record: Record, sides: tuple[int, ...], decision: Decision) -> Selected:
    side = sides[decision.level] if decision.level else None
    return Selected(
        record.id, side, decision.level, decision.diverged, sides, {}, decision.unanswered
    )


def _journal(path: Path, settings: Settings, about: Mapping[str, Any]) -> RecordJournal[Selected]:
    return RecordJournal(path, asdict(settings) | dict(about), "selected", FORMAT, _selected_again)


def _selected_again(fields: Mapping[str, Any]) -> Selected:
    lists = {name: _tuples(fields[name]) for name in ("answers", "agree")}
    return Selected(**dict(fields) | lists | {"sides": tuple(fields["sides"])})


def _tuples(lists: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    return {level: tuple(given) for level, given in lists.items()}
