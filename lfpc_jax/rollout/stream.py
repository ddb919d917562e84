"""Episodes that go on from one step of training to the next.

    stream = EpisodeStream(engine, rollouts=8)
    stream.add(prompts_of_a_step, seed=0)
    stream.add(prompts_of_the_next, seed=1)
    groups = list(stream.collect(0))       # prompts of the next step begin in slots that fall free
    engine.load(new_params, version=1)     # unfinished episodes go on under these
    groups = list(stream.collect(1))

Seeds name the steps, so each has its own. Between two calls of `collect` the cache stays in memory
while any episode is unfinished, and the engine can run nothing else; workers still cut crops. Which
weights draw a token depends on how far its episode had come when they were replaced, and so on the
time that crops took. An episode that begins and ends between two loads is what `Engine.run` gives.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from lfpc_jax.rollout.asked import Asked, OnEpisode, Queue
from lfpc_jax.rollout.dialogue import Opening
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.scheduler import Scheduler
from lfpc_jax.trajectory import Group, Record


class EpisodeStream:
    """Rolls out the records of several steps, those of earlier steps first."""

    def __init__(
        self, engine: Engine, *, rollouts: int, on_episode: OnEpisode = lambda _: None
    ) -> None:
        self.engine, self.rollouts, self.on_episode = engine, rollouts, on_episode
        self._queue: Queue[tuple[Record | Opening, int]] = Queue()
        self._early: dict[int, list[Group]] = {}
        self._scheduler: Scheduler | None = None
        self._open = ExitStack()

    def add(self, records: Iterable[Record | Opening], *, seed: int) -> None:
        """Adds the records of a step. They may begin once all that were added before have begun."""
        assert seed not in self._early, f"seed {seed} names two steps"
        self._early[seed] = []
        self._queue.waiting.extend((record, seed) for record in records)

    @property
    def idle(self) -> bool:
        """Whether no episode is unfinished, and the engine free for other runs."""
        return self._scheduler is None

    def collect(self, seed: int) -> Iterator[Group]:
        """The groups of a step as they end. Returns when all have; then those of later steps may be
        unfinished."""
        yield from self._early[seed]
        if not self._waits(seed):
            del self._early[seed]
            return
        scheduler = self._scheduler or self._begin()
        start = time.perf_counter()
        try:
            while self._waits(seed):
                for of_step, _, group in scheduler.turn():
                    if of_step != seed:
                        self._early[of_step].append(group)
                        continue
                    self.engine.stats.seconds += time.perf_counter() - start
                    yield group
                    start = time.perf_counter()
        except BaseException:
            self.close()
            raise
        finally:
            self.engine.stats.seconds += time.perf_counter() - start
            self.engine.skipped_log.tell(scheduler.skipped)
            scheduler.skipped = []
        del self._early[seed]
        if scheduler.idle and not self._queue.waiting:
            self.close()

    def close(self) -> None:
        """Gives up all unfinished episodes, and the cache."""
        if self._scheduler is not None:
            self._scheduler.close()
        self._scheduler = None
        self._open.close()

    def _waits(self, seed: int) -> bool:
        """Whether any record of the step has neither ended nor failed."""
        begun = self._scheduler is not None and self._scheduler.left[seed] > 0
        return begun or any(of == seed for _, of in self._queue.waiting)

    def _begin(self) -> Scheduler:
        engine = self.engine
        pool = self._open.enter_context(ThreadPoolExecutor(engine.workers, "rollout"))
        self._open.enter_context(engine.slots.allocated())
        asked = Asked(self._queue, self.rollouts, on_episode=self.on_episode)
        self._scheduler = engine.scheduler(pool, asked, Scheduler)
        return self._scheduler
