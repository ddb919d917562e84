"""Whether an answer is right, where a failure to find out is not an answer of its own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Why a sample cannot be scored: the part that failed, what happened, and in a word or two what
    caused it, which many faults have in common."""

    part: str
    reason: str
    cause: str = ""

    @property
    def kind(self) -> str:
        """What faults are counted by; the first of each is told in full."""
        return f"{self.part}: {self.cause}" if self.cause else self.part


@dataclass(frozen=True)
class Verdict:
    """Right, wrong, or None with the fault that kept it from being known. `undecided` says that
    nothing but a judge could tell, and that there was none: then it counts as wrong."""

    right: bool | None
    fault: Fault | None = None
    judged: bool = False
    undecided: bool = False

    def __post_init__(self) -> None:
        assert (self.right is None) == (self.fault is not None), self
