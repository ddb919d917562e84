"""The prompts of each step and the episodes sampled from them; with `rollout.ahead`, prompts of
further steps begin before a step is complete.

No step begins ahead of a validation, which needs the engine for itself. So a validation finds no
episode unfinished, and no second cache is ever needed. Unfinished episodes are not part of a
checkpoint: the data's position in it is that of the first step that was not trained on, and a
resumed run begins that step's episodes anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from lfpc_jax.cropvlm.pair import Pair
from lfpc_jax.data.pipeline import Stream
from lfpc_jax.rewards.judge import Bar
from lfpc_jax.rollout.dialogue import Opening
from lfpc_jax.rollout.engine import Engine, OnEpisode
from lfpc_jax.rollout.stream import EpisodeStream
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.episodes import in_order, sample
from lfpc_jax.run.openings import with_unique_ids
from lfpc_jax.trajectory import Group


@dataclass
class Steps:
    """`validates` says whether a validation follows a step, which counts from 1."""

    config: TrainConfig
    data: Stream[Opening]
    engine: Engine | Pair
    bar: Bar
    on_episode: OnEpisode
    validates: Callable[[int], bool]
    _openings: dict[int, list[Opening]] = field(default_factory=dict)
    _positions: dict[int, str] = field(default_factory=dict)
    _stream: EpisodeStream | None = None

    def __post_init__(self) -> None:
        if self.config.rollout.ahead:
            assert isinstance(self.engine, Engine), "a pair of models cannot be left in the middle"
            rollouts = self.config.rollout.rollouts
            self._stream = EpisodeStream(self.engine, rollouts=rollouts, on_episode=self.on_episode)

    def prompts(self, step: int) -> list[Opening]:
        """The prompts of the step after `step` steps. Those of steps that may begin ahead are taken
        from the data, too; all processes take them at the same time."""
        for number in range(step, self._last(step) + 1):
            if number not in self._openings:
                self._positions[number] = self.data.get_state().decode()
                openings = self._openings[number] = with_unique_ids(next(self.data))
                if self._stream is not None:
                    self._stream.add(openings, seed=self._seed(number))
        return self._openings[step]

    def _last(self, step: int) -> int:
        """The last step whose prompts may begin before this one is complete."""
        last = step
        while last < min(step + self.config.rollout.ahead, self.config.steps - 1):
            if self.validates(last + 1):
                break
            last += 1
        return last

    def sampled(self, step: int) -> list[Group]:
        """The step's groups, in the order of its prompts."""
        openings = self._openings[step]
        if self._stream is None:
            return sample(
                self.engine,
                openings,
                rollouts=self.config.rollout.rollouts,
                seed=self._seed(step),
                bar=self.bar,
                on_episode=self.on_episode,
            )
        groups = []
        with self.bar("rollouts", len(openings)) as advance:
            for group in self._stream.collect(self._seed(step)):
                groups.append(group)
                advance(1)
        return in_order(openings, groups)

    def _seed(self, step: int) -> int:
        return (self.config.seed << 32) + step

    def forget(self, step: int) -> None:
        """Lets go of a step's prompts, once it has been trained on."""
        del self._openings[step], self._positions[step]

    def position(self, step: int) -> str:
        """Where the data of the step after `step` steps begins."""
        return self._positions.get(step) or self.data.get_state().decode()

    def close(self) -> None:
        """Gives up what is unfinished."""
        if self._stream is not None:
            self._stream.close()
