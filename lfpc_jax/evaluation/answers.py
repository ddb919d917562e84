"""Stored answers, graded and measured. Needs no model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from lfpc_jax.evaluation.measures import Measures, measure
from lfpc_jax.evaluation.premature import states_answer_first
from lfpc_jax.evaluation.scoring import Outcome
from lfpc_jax.rewards.accuracy import grade
from lfpc_jax.rewards.answers import match
from lfpc_jax.rewards.judge import Judges
from lfpc_jax.rewards.verdict import Fault
from lfpc_jax.rollout.said import said
from lfpc_jax.trajectory import Group, Record


@dataclass(frozen=True)
class Answered:
    """One question's episodes and their answers. `stated` says of each episode whether its answer
    stands before its first call."""

    record: Record
    answers: tuple[str | None, ...]
    episodes: tuple[Measures, ...]
    stated: tuple[bool | None, ...]
    undecided: int = 0
    """Answers that the rules cannot tell, and only a judge can."""
    judged: int = 0
    """Answers put to a judge."""
    faults: tuple[Fault, ...] = ()
    """Why answers could not be judged, one each; they count as neither right nor wrong."""

    @property
    def right(self) -> float | None:
        known = [episode.right for episode in self.episodes if episode.right is not None]
        return fmean(known) if known else None

    @property
    def crops(self) -> float:
        return fmean(episode.crops for episode in self.episodes)

    @property
    def cropped(self) -> float:
        """The share of its episodes that have a crop."""
        return fmean(episode.crops > 0 for episode in self.episodes)

    @property
    def outcome(self) -> Outcome:
        return Outcome.of(self.record, self.right)


def graded(groups: Iterable[Group], image_token: int, judge: Judges | None) -> list[Answered]:
    """The graded answers, by the record's id. An answer that the judge fails on stays open."""
    ungraded = sorted(
        (_ungraded(group, image_token) for group in groups), key=lambda answered: answered.record.id
    )
    claims = [(answer, answered.record) for answered in ungraded for answer in answered.answers]
    verdicts = iter(grade(claims, judge))
    all_graded = []
    for answered in ungraded:
        its_verdicts = [next(verdicts) for _ in answered.answers]
        episodes = tuple(
            replace(measures, right=verdict.accuracy)
            for measures, verdict in zip(answered.episodes, its_verdicts)
        )
        faults = tuple(verdict.fault for verdict in its_verdicts if verdict.fault is not None)
        judged = sum(verdict.judged for verdict in its_verdicts)
        all_graded.append(replace(answered, episodes=episodes, judged=judged, faults=faults))
    return all_graded


def _ungraded(group: Group, image_token: int) -> Answered:
    record, trajectories = group.record, group.trajectories
    answers = tuple(map(said, trajectories))
    return Answered(
        record=record,
        answers=answers,
        episodes=tuple(
            measure(trajectory, record, None, image_token=image_token)
            for trajectory in trajectories
        ),
        stated=tuple(
            states_answer_first(trajectory, record, answer)
            for trajectory, answer in zip(trajectories, answers)
        ),
        undecided=sum(_undecided(answer, record) for answer in answers),
    )


def _undecided(answer: str | None, record: Record) -> bool:
    try:
        return not record.graded and match(answer, record) is None
    except ValueError:
        return False


def episodes_of(answered: Sequence[Answered]) -> list[Measures]:
    return [episode for question in answered for episode in question.episodes]
