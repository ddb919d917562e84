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
    """A question's episodes, their answers, and whether each stands before the first call."""

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
        known = [one.right for one in self.episodes if one.right is not None]
        return fmean(known) if known else None

    @property
    def crops(self) -> float:
        return fmean(one.crops for one in self.episodes)

    @property
    def cropped(self) -> float:
        """The share of its episodes with a crop."""
        return fmean(one.crops > 0 for one in self.episodes)

    @property
    def outcome(self) -> Outcome:
        return Outcome.of(self.record, self.right)


def graded(groups: Iterable[Group], image_token: int, judge: Judges | None) -> list[Answered]:
    """By the id of the record. A judge that fails leaves an answer open."""
    found = sorted(
        (_ungraded(group, image_token) for group in groups), key=lambda one: one.record.id
    )
    claims = [(answer, one.record) for one in found for answer in one.answers]
    verdicts = iter(grade(claims, judge))
    made = []
    for one in found:
        own = [next(verdicts) for _ in one.answers]
        episodes = tuple(
            replace(measures, right=None if verdict.right is None else float(verdict.right))
            for measures, verdict in zip(one.episodes, own)
        )
        faults = tuple(verdict.fault for verdict in own if verdict.fault is not None)
        judged = sum(verdict.judged for verdict in own)
        made.append(replace(one, episodes=episodes, judged=judged, faults=faults))
    return made


def _ungraded(group: Group, image_token: int) -> Answered:
    record, trajectories = group.record, group.trajectories
    answers = tuple(map(said, trajectories))
    return Answered(
        record=record,
        answers=answers,
        episodes=tuple(measure(one, record, None, image_token=image_token) for one in trajectories),
        stated=tuple(
            states_answer_first(one, record, answer) for one, answer in zip(trajectories, answers)
        ),
        undecided=sum(_undecided(answer, record) for answer in answers),
    )


def _undecided(answer: str | None, record: Record) -> bool:
    try:
        return match(answer, record) is None
    except ValueError:
        return False


def episodes_of(answered: Sequence[Answered]) -> list[Measures]:
    return [episode for one in answered for episode in one.episodes]
