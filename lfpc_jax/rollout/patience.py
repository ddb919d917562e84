"""Whether rows that could decode wait for replies to others.

A reply that comes while a chunk is decoded is written when the chunk is done. So either its row
loses the rest of the chunk, or, if the chunk begins later, the rows that could decode lose the time
until it comes. Fewer rows lose less. A chunk of many rows also takes less time than two of a few.
"""

import time
from collections.abc import Callable
from typing import Any

_NEWEST = 0.2
"""The weight of the newest time in a mean of them."""


class Patience:
    """Learns how long replies and chunks take."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._reply: float | None = None
        self._chunk: float | None = None

    def replied(self, seconds: float) -> None:
        """A worker prepared a reply in so many seconds."""
        self._reply = _mean(self._reply, seconds)

    def decoded(self, seconds: float) -> None:
        """A chunk took so many seconds."""
        self._chunk = _mean(self._chunk, seconds)

    def seconds(self, live: int, awaited: int) -> float:
        """How long so many rows that could decode are to wait for the replies to others; 0 if they
        had better decode."""
        if self._reply is None or self._chunk is None or not (live and awaited):
            return 0.0
        left = self._reply * -(-awaited // self.workers)
        return left if live * left < awaited * (self._chunk - left) else 0.0


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """The seconds that a function took, and what it returned."""
    begun = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - begun, result


def _mean(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + _NEWEST * (newest - mean)
