"""What is kept because it may be wanted again, the least recently used of it given up first."""

from collections import OrderedDict
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)


class KeptRows(Generic[K]):
    """Which keys have which of `count` rows."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.clear()

    def clear(self) -> None:
        self._rows: OrderedDict[K, int] = OrderedDict()
        self._free = list(reversed(range(self.count)))

    def __contains__(self, key: K) -> bool:
        return key in self._rows

    def of(self, keys: Collection[K]) -> tuple[dict[K, int], list[K]]:
        """The row of each key, of which there may be `count` different ones, and those keys that
        have been given a row now."""
        wanted = dict.fromkeys(keys)
        assert len(wanted) <= self.count, (len(wanted), self.count)
        for key in wanted:
            if key in self._rows:
                self._rows.move_to_end(key)
        new = [key for key in wanted if key not in self._rows]
        for key in new:
            self._rows[key] = self._free.pop() if self._free else self._rows.popitem(last=False)[1]
        return {key: self._rows[key] for key in wanted}, new


class KeptArrays(Generic[K]):
    """Arrays in the host's memory, of at most `most` bytes together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.clear()

    def clear(self) -> None:
        self._arrays: OrderedDict[K, np.ndarray] = OrderedDict()
        self.nbytes = 0

    def get(self, key: K) -> np.ndarray | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: K, array: np.ndarray) -> None:
        """Keeps an array of a new key, unless it alone is too large."""
        assert key not in self._arrays
        self._arrays[key] = array
        self.nbytes += array.nbytes
        while self.nbytes > self.most:
            self.nbytes -= self._arrays.popitem(last=False)[1].nbytes
