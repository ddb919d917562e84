"""Records that cannot be used: which, why, and how many are too many.

A bad record never stops a run by itself. It is left out and listed with its reason. A run stops,
with that list, only when a set has more rejected records than its share allows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "malformed row",
    "missing picture",
    "unreadable picture",
    "several pictures",
    "video",
    "too narrow",
    "empty question",
    "empty answer",
    "no answers",
    "too few references",
    "wrong options",
    "box outside picture",
    "box of no question",
    "boxes not nested",
    "duplicate id",
    "cannot be asked",
    "nothing to crop",
    "no target",
]

UNSUITED: frozenset[Reason] = frozenset(
    {"video", "several pictures", "nothing to crop", "no target"}
)
"""Reasons of sound rows that this system does not train on, or not in this way. Such rows are left
out by design. They are counted and reported separately, and are no part of the share that a set may
lose."""

MAX_SHARE = 0.02
"""The share of its records that a set may lose by default."""
_LISTED = 50


class Unusable(Exception):
    """A record cannot be read or opened. The caller that catches this knows which record it was."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Rejected:
    """A record that was left out."""

    record: str
    reason: Reason
    detail: str

    @classmethod
    def of(cls, record: str, error: Unusable) -> "Rejected":
        return cls(record, error.reason, error.detail)

    def __str__(self) -> str:
        return f"{self.record}: {self.reason}: {self.detail}"


class TooManyLost(ValueError):
    """A set lost more than its share of `total` records. The message lists the first of them, the
    attribute `rejected` all."""

    def __init__(
        self, name: str, rejected: Sequence[Rejected], total: int, max_share: float
    ) -> None:
        listed = [f"  {entry}" for entry in rejected[:_LISTED]]
        if len(rejected) > _LISTED:
            listed.append(f"  and {len(rejected) - _LISTED} more")
        super().__init__(
            f"{name}: {len(rejected)} of {total} records cannot be used ({summary(rejected)}), "
            f"more than the share of {max_share:g} that the set may lose; mend the set or allow "
            "more\n" + "\n".join(listed)
        )
        self.rejected = tuple(rejected)


def check_share(name: str, rejected: Sequence[Rejected], total: int, max_share: float) -> None:
    """Raises `TooManyLost` if too many of `total` rows were rejected. Unsuited rows count neither
    as rejected nor in the total."""
    unusable, unsuited = parted(rejected)
    if len(unusable) > max_share * (total - len(unsuited)):
        raise TooManyLost(name, unusable, total - len(unsuited), max_share)


def parted(rejected: Sequence[Rejected]) -> tuple[tuple[Rejected, ...], tuple[Rejected, ...]]:
    """The records that should have been usable, and those that are unsuited."""
    return (
        tuple(entry for entry in rejected if entry.reason not in UNSUITED),
        tuple(entry for entry in rejected if entry.reason in UNSUITED),
    )


def summary(rejected: Sequence[Rejected]) -> str:
    """How often each reason occurred, the most frequent first."""
    counts = Counter(entry.reason for entry in rejected).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in counts) or "none"
