"""Records that cannot be used: why, which, and how many are too many.

A bad record never stops a run by itself. It is left out, kept here with its reason, and only when
a set has lost more than its share does the run stop, with the list.
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
    "wrong options",
    "box outside picture",
    "boxes not nested",
    "duplicate id",
    "cannot be asked",
]

UNSUITED: frozenset[Reason] = frozenset({"video", "several pictures"})
"""Sound rows of a kind that is not for this system. They are left out by design: counted and said
apart, and no part of the share that a set may lose."""

MAX_SHARE = 0.02
"""The share of its records that a set may lose, unless it is given another."""
_LISTED = 50


class Unusable(Exception):
    """Raised while a record is read or opened; what catches it knows which record it was."""

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
    """A set lost more than its share of `total` records; `rejected` is the whole list, the message
    its beginning."""

    def __init__(
        self, name: str, rejected: Sequence[Rejected], total: int, max_share: float
    ) -> None:
        listed = [f"  {loss}" for loss in rejected[:_LISTED]]
        if len(rejected) > _LISTED:
            listed.append(f"  and {len(rejected) - _LISTED} more")
        super().__init__(
            f"{name}: {len(rejected)} of {total} records cannot be used ({summary(rejected)}), "
            f"more than the share of {max_share:g} that the set may lose; mend the set or allow "
            "more\n" + "\n".join(listed)
        )
        self.rejected = tuple(rejected)


def check_share(name: str, rejected: Sequence[Rejected], total: int, max_share: float) -> None:
    """Of `total` rows, those that are unsuited count neither way."""
    lost, unsuited = parted(rejected)
    if len(lost) > max_share * (total - len(unsuited)):
        raise TooManyLost(name, lost, total - len(unsuited), max_share)


def parted(rejected: Sequence[Rejected]) -> tuple[tuple[Rejected, ...], tuple[Rejected, ...]]:
    """Those that should not be, and those that are unsuited."""
    return (
        tuple(loss for loss in rejected if loss.reason not in UNSUITED),
        tuple(loss for loss in rejected if loss.reason in UNSUITED),
    )


def summary(rejected: Sequence[Rejected]) -> str:
    """How often each reason occurred, the most frequent first."""
    counts = Counter(loss.reason for loss in rejected).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in counts) or "none"
