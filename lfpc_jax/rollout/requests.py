"""A run that is asked by requests, as they come: each with its own dialogue, limits and sampling.

    with RequestRun(engine, on_episode=..., on_skipped=...) as run:
        run.add(request)
        run.give_up(another)      # its slots are free for others before the next turn
        while not run.idle:
            run.turn()

All calls are made by one thread. The engine must be warmed up with `requests`. What an episode
samples is what `Engine.run` gives for its record, number and seed: neighbours change nothing.
Nothing is kept of requests that have ended.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from lfpc_jax.rollout.asked import Asked, Queue
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.rollout.items import Beginning, LiveRow
from lfpc_jax.rollout.scheduler import Scheduler


@dataclass(frozen=True, eq=False)
class Request:
    """An opening that is rolled out `rollouts` times, and goes on in one way at most. Sampling is
    that of its rules; their stops and banned tokens are the engine's."""

    opening: Opening
    seed: int
    rules: Rules
    dialogue: Dialogue
    rollouts: int = 1


class RequestRun:
    """The run. `on_episode` is called with a request's episode when it has sampled, has been
    replied to, or has ended, and `on_skipped` with a request that cannot be shown, and why."""

    def __init__(
        self,
        engine: Engine,
        *,
        on_episode: Callable[[Request, Episode], None],
        on_skipped: Callable[[Request, str], None],
    ) -> None:
        self.engine, self.on_episode, self.on_skipped = engine, on_episode, on_skipped
        self.requests: dict[Opening, Request] = {}
        self._left: dict[Request, int] = {}  # episodes that have not ended
        self._queue: Queue[Request] = Queue()
        self._open = ExitStack()

    def __enter__(self) -> "RequestRun":
        engine = self.engine
        pool = ThreadPoolExecutor(engine.workers, "rollout")
        self._open.callback(pool.shutdown, wait=False, cancel_futures=True)
        self._open.enter_context(engine.slots.allocated())
        # `map` asks its iterator again after that had none, as a generator would not
        records = map(lambda request: (request.opening, request.seed), self._queue)
        asked = Asked(records, 1, on_episode=self._told, on_skipped=self._skipped)
        self._scheduler = engine.scheduler(pool, asked, _Requests)
        self._scheduler.requests = self.requests
        return self

    def __exit__(self, *_: object) -> None:
        self._scheduler.close()
        self._open.close()

    def add(self, request: Request) -> None:
        self.requests[request.opening] = request
        self._left[request] = request.rollouts
        self._queue.waiting.append(request)

    def give_up(self, request: Request) -> None:
        """Forgets a request, wherever it is; one that has ended is no fault."""
        if self.requests.pop(request.opening, None) is None:
            return
        del self._left[request]
        if request in self._queue.waiting:
            self._queue.waiting.remove(request)
        else:
            self._scheduler.give_up(request.opening)

    def turn(self) -> None:
        """Begins and goes on with what can be; decodes a chunk if anything can decode."""
        self._scheduler.turn()
        self._scheduler.skipped.clear()
        self._scheduler.left.clear()
        self.engine.stats.skipped.clear()

    @property
    def idle(self) -> bool:
        return not self._queue.waiting and self._scheduler.idle

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return len(self._scheduler.rows)

    def _told(self, episode: Episode) -> None:
        request = self.requests.get(episode.opening)
        if request is None:
            return
        self.on_episode(request, episode)
        self._left[request] -= episode.end is not None
        if not self._left[request]:
            del self.requests[episode.opening], self._left[request]

    def _skipped(self, opening: object, reason: str) -> None:
        assert isinstance(opening, Opening)
        request = self.requests.pop(opening)
        del self._left[request]
        self.on_skipped(request, reason)


class _Requests(Scheduler):
    """A run whose episodes follow their request's rules."""

    requests: dict[Opening, Request]

    def _episodes(self, opening: Opening, most: int) -> list[Episode]:
        request = self.requests[opening]
        return [
            Episode(opening, number, request.rules, request.dialogue, most)
            for number in range(request.rollouts)
        ]

    def _live_row(self, row: int) -> LiveRow:
        live = super()._live_row(row)
        sampling = self.rows[row].rules.sampling
        return LiveRow(live.row, live.prompt, live.length, sampling)

    def give_up(self, opening: Opening) -> None:
        """Takes everything of an opening out of the run."""
        for each in [each for each in self.openings if each[0] is opening]:
            each[-1].cancel()
            self.openings.remove(each)
        for prompt in [prompt for prompt in self.prompts if prompt.group.opening is opening]:
            self.prompts.remove(prompt)
            prompt.waiting.clear()
            if prompt.row is not None and not prompt.running:
                self.free_prompts.add(prompt.row)
        rows = [row for row, episode in self.rows.items() if episode.opening is opening]
        self.replies = {future: row for future, row in self.replies.items() if row not in rows}
        self.slots.begin([self._stopped(row) for row in rows])
        for episode in [e for e in self.groups_left if e.opening is opening]:
            del self.groups_left[episode]

    def _stopped(self, row: int) -> Beginning:
        """Frees a row; on the device it has nothing left to sample."""
        self.live.discard(row)
        prompt = self.prompt_of.pop(self.rows.pop(row))
        assert prompt.row is not None
        prompt.running -= 1
        if not (prompt.running or prompt.waiting):
            self.free_prompts.add(prompt.row)
        none = np.zeros(2, np.uint32)
        return Beginning(row=row, prompt=prompt.row, pending=0, position=0, budget=0, key=none)
