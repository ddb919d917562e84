"""Batches for the engine's programs: which item is in which lane, and what the arrays hold."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from lfpc_jax.rollout.state import Turns
from lfpc_jax.trajectory import Tokens

T = TypeVar("T")


def dealt(
    items: Sequence[T], shard_of: Callable[[T], int], lanes: int, shards: int
) -> Iterator[dict[int, T]]:
    """Items by their lanes in a batch, of which each shard has equally many, one after the other;
    several batches if they do not fit one."""
    of_shard = lanes // shards
    waiting: dict[int, deque[T]] = defaultdict(deque)
    for item in items:
        waiting[shard_of(item)].append(item)
    while any(waiting.values()):
        yield {
            shard * of_shard + number: queue.popleft()
            for shard, queue in waiting.items()
            for number in range(min(of_shard, len(queue)))
        }


def write(
    tokens: Tokens, row: int, ids: np.ndarray, positions: np.ndarray, image_index: np.ndarray
) -> None:
    n = len(ids)
    tokens.ids[row, :n] = ids
    tokens.positions[:, row, :n] = positions
    tokens.segments[row, :n] = 1
    tokens.image_index[row, :n] = image_index


def no_turns(count: int, slots: int) -> Turns:
    """Only padding: rows past the last of a shard's slots."""
    zeros = [np.zeros(count, np.int32) for _ in range(3)]
    return Turns(np.full(count, slots, np.int32), *zeros)
