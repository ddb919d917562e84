"""What a target model is asked, and what it says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.trajectory import Box4, Record

NOT_SHOWN = "cannot be shown"
"""The cause of the faults of boxes and pictures that no target can be shown."""


@dataclass(frozen=True)
class Question:
    """A record, and the boxes that are shown with it, each for one answer: in pixels of the
    original, or None to show no crop."""

    record: Record
    boxes: tuple[Box4 | None, ...]


@dataclass(frozen=True)
class Said:
    """What the target answered, or why it could not be asked. A fault is no answer, and an empty
    answer is no fault. A fault begins with its cause, by which faults are counted, and a colon.
    `cached` says that the answer was kept from an earlier time."""

    answer: str | None = None
    fault: str = ""
    cached: bool = False


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood of the right answer with a box in view, the sum over its `tokens`, the end
    of the turn included; or why it could not be asked for, in a fault as `Said` has it."""

    total: float | None
    tokens: int = 0
    fault: str = ""


@runtime_checkable
class Target(Protocol):
    """A frozen model. `dialogue` is how it is shown things: an alteration there alters its crops,
    and without a tool it sees no crop. `identity` is what an evaluation records of it."""

    dialogue: Dialogue

    @property
    def identity(self) -> dict[str, Any]: ...

    def answers(
        self, questions: Sequence[Question], *, seed: int = 0
    ) -> Iterator[tuple[Said, ...]]:
        """For each question, in order, an answer for each of its boxes."""
        ...

    def likelihoods(self, questions: Sequence[Question]) -> Iterator[tuple[Likelihood, ...]]:
        """For each question, in order, the log-likelihood of its record's answer for each of its
        boxes."""
        ...
