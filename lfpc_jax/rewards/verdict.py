"""Whether an answer is right. A failure to find out is neither right nor wrong, but a fault."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Why an episode has no reward: the part that failed, what happened, and the cause in a word or
    two, which many faults have in common."""

    part: str
    reason: str
    cause: str = ""

    @property
    def kind(self) -> str:
        """Faults are counted by this. The first of each kind is logged in full."""
        return f"{self.part}: {self.cause}" if self.cause else self.part


@dataclass(frozen=True)
class Verdict:
    """Right, wrong, or None with the fault that kept it from being known. `undecided` says that
    only a judge could tell and that there was none; the answer then counts as wrong."""

    right: bool | None
    fault: Fault | None = None
    judged: bool = False
    undecided: bool = False
    score: float | None = None
    """What a graded metric gives; `right` is then whether that is above 0."""

    @property
    def accuracy(self) -> float | None:
        """1 for a right answer, 0 for a wrong one, or the score between; None with a fault."""
        if self.score is not None:
            return self.score
        return None if self.right is None else float(self.right)

    def __post_init__(self) -> None:
        assert (self.right is None) == (self.fault is not None), self
