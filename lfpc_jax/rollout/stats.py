"""What an engine counts over its runs."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Stats:
    """Counts over all runs of an engine. A row-step is one slot for one step of decode. Those that
    sampled no token are counted by why: the row's turn had `ended` before the chunk did, or it
    waited for a reply (`replies`); the slots of the others had no episode.

    `parts` are the seconds of each program, and those in which no row could decode because all
    waited for prompts or crops (`waiting`). What is left of `seconds` is the host's."""

    slots: int
    steps: int = 0
    sampled: int = 0
    idle: Counter[str] = field(default_factory=Counter)
    prompts: int = 0
    rollouts: int = 0
    replies: int = 0
    seconds: float = 0.0
    parts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    longest_refused: int = 0  # text tokens of the longest prompt that was too long

    @property
    def occupancy(self) -> float:
        """The share of row-steps that sampled a token."""
        return self.sampled / (self.slots * self.steps) if self.steps else 0.0
