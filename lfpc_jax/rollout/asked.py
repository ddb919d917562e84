"""What a run of the engine is asked for, and how it is scheduled."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from lfpc_jax.rollout.dialogue import Alter, Opening
from lfpc_jax.rollout.episode import Episode
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.trajectory import Record

OnEpisode = Callable[[Episode], None]
OnSkipped = Callable[[Record | Opening, str], None]
Alters = Callable[[Record], Mapping[str, Alter]]
T = TypeVar("T")


class Queue(Generic[T]):
    """An iterator that may have more after it had none."""

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()

    def __iter__(self) -> "Queue[T]":
        return self

    def __next__(self) -> T:
        if not self.waiting:
            raise StopIteration
        return self.waiting.popleft()


@dataclass(frozen=True)
class Asked:
    """What a run is asked for; see `Engine.run`. Every record comes with its seed. An iterator that
    has no more records is asked again later."""

    records: Iterable[tuple[Record | Opening, int]]
    rollouts: int
    sampling: Sampling | None = None
    on_episode: OnEpisode = lambda _: None
    on_skipped: OnSkipped = lambda *_: None
    alters: Alters = lambda _: {}


@dataclass(frozen=True)
class Scheduling:
    """Beside the records of the next prefill, `opened` more are opened before they are needed.
    `refill` and `share_prefix` are turned off only to measure what they are worth."""

    opened: int = 2
    refill: bool = True
    share_prefix: bool = True
