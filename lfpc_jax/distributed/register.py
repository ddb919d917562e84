"""Keeps account of which processes are alive, from the notes that they leave for each other.

A note is `count state word`: a number that grows with every beat; `up`, `failed` or `finished`; and
the reason. The word `stop` of a process that is `up` means that it was told to stop. Silence is
counted in rounds of reading, not in seconds. So a process that was itself suspended for a while
declares nobody dead, and clocks of different hosts are never compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["up", "failed", "finished"]


def note(count: int, state: State, word: str = "") -> str:
    return f"{count} {state} {word}".rstrip()


@dataclass
class _Seen:
    note: str = ""
    state: str = "up"
    word: str = ""
    rounds: int = 0  # since the note last changed
    failed_for: int = 0  # rounds since the failure was first read


@dataclass
class Register:
    """A process counts as dead after `patience` rounds without a new note. A failure is also held
    back for `patience` rounds: a process that failed over a broken connection is rarely the cause,
    and the one that is may be found dead by then."""

    process: int
    processes: int
    patience: int
    _seen: dict[int, _Seen] = field(init=False)

    def __post_init__(self) -> None:
        others = set(range(self.processes)) - {self.process}
        self._seen = {other: _Seen() for other in sorted(others)}

    def read(self, notes: Mapping[int, str]) -> None:
        """Takes in the notes of one round."""
        for process, seen in self._seen.items():
            new = notes.get(process, "")
            seen.failed_for += seen.state == "failed"
            if new == seen.note:
                seen.rounds += 1
                continue
            _, seen.state, *word = new.split(" ", 2)
            seen.note, seen.word, seen.rounds = new, " ".join(word), 0

    @property
    def dead(self) -> tuple[int, ...]:
        """The processes that were silent for too long and have neither finished nor failed."""
        return tuple(
            p for p, s in self._seen.items() if s.state == "up" and s.rounds >= self.patience
        )

    @property
    def failed(self) -> dict[int, str]:
        return {p: s.word for p, s in self._seen.items() if s.state == "failed"}

    @property
    def stopping(self) -> bool:
        """Whether another process has been told to stop."""
        return any(seen.state == "up" and seen.word == "stop" for seen in self._seen.values())

    @property
    def due(self) -> bool:
        """Whether there is something to report that needs no longer waiting."""
        return bool(self.dead) or any(s.failed_for >= self.patience for s in self._seen.values())

    @property
    def over(self) -> bool:
        """Whether every other process has finished or failed."""
        return all(seen.state != "up" for seen in self._seen.values())

    def silence(self, process: int) -> int:
        """Rounds since the process was last heard; 0 for this process."""
        return self._seen[process].rounds if process in self._seen else 0
