"""Direct answers from the rollout engine: no tool, one turn."""

from collections.abc import Callable, Sequence

from lfpc_jax.data.rejected import Rejected
from lfpc_jax.infogap.agreement import Answer
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Episode
from lfpc_jax.rollout.said import said
from lfpc_jax.stopping import Interrupted
from lfpc_jax.trajectory import Record


class EngineAnswers:
    """Asks an engine, whose dialogue should have no tools and whose rules one turn. Counts what it
    was asked. Raises `Interrupted` once `stop` says so."""

    def __init__(
        self,
        engine: Engine,
        *,
        n_answers: int,
        seed: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine, self.n_answers, self.seed, self.stop = engine, n_answers, seed, stop
        self.asked = 0

    def __call__(self, questions: Sequence[Record]) -> list[Sequence[Answer] | Rejected]:
        self.asked += len(questions)
        before = len(self.engine.stats.skipped)
        answers: dict[str, Sequence[Answer] | Rejected] = {}
        for group in self.engine.run(
            questions, rollouts=self.n_answers, seed=self.seed, on_episode=self._leave_if_stopped
        ):
            answers[group.record.id] = tuple(map(said, group.trajectories))
        for name, reason in self.engine.stats.skipped[before:]:
            answers[name] = Rejected(name, "cannot be asked", reason)
        return [answers[question.id] for question in questions]

    def _leave_if_stopped(self, _: Episode) -> None:
        if self.stop():
            raise Interrupted
