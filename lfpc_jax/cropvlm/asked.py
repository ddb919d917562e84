"""A target model as an evaluation asks it: with boxes of a crop network, with others, with none.

Every condition yields ordinary groups, which are stored, graded and shown as the episodes of a
model are. A box that no network proposed is an episode of one turn without ids, whose text names
the condition. Without a box an episode has no turn. An altered crop is that of the box which the
crop network proposed under `tool`: the network is not asked again, and the stored episode gets
another answer.

The target answers each different box of a record once, and rollouts with the same box share it.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from lfpc_jax.cropvlm.boxes import BoxOf, boxes_of
from lfpc_jax.cropvlm.target import Question, Said, Target
from lfpc_jax.data import pictures
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.evaluation.conditions import TOOL, Runs, Stored, is_altered, layer_of
from lfpc_jax.trajectory import Box4, Crop, End, Group, Record, Size, Trajectory, Turn

log = logging.getLogger(__name__)

_TOGETHER = 256
"""Records whose boxes are found before the target answers them."""

Attended = Callable[[int, Sequence[Record]], Iterator[Box4]]
"""ViCrop's boxes of records, in order, by the target's attention at a layer."""


@dataclass
class AskedTarget:
    """Puts a target under each condition. `proposer` has the face of an engine, and gives groups
    whose boxes the target has answered; it is made when it is needed. `likelihoods` also asks for
    the log-likelihood of each record's answer."""

    target: Target
    proposer: Callable[[], Runs] | None = None
    attended: Attended | None = None
    likelihoods: bool = False

    @contextmanager
    def under(
        self, condition: str, records: Sequence[Record], stored: Stored, *, seed: int
    ) -> Iterator[Runs]:
        if condition == TOOL:
            if self.proposer is None:
                raise ValueError("boxes are to be predicted, but there is no crop network")
            yield self.proposer()
        elif is_altered(condition):
            with altered(self.target, alteration(condition, records, seed=seed)):
                yield _Again(self, stored())
        elif (layer := layer_of(condition)) is not None:
            yield _Attended(self, condition, layer)
        else:
            yield _Given(self, condition, boxes_of(condition, seed=seed))

    def groups(
        self, asked: Sequence[tuple[Record, tuple[Trajectory, ...]]], seed: int
    ) -> Iterator[Group]:
        """The target's answers to each record's episodes, with the box that each proposes."""
        boxes = [tuple(map(_box, trajectories)) for _, trajectories in asked]
        questions = [
            Question(record, tuple(dict.fromkeys(of_record)))
            for (record, _), of_record in zip(asked, boxes)
        ]
        answers = self.target.answers(questions, seed=seed)
        unknown: Iterator[tuple[float | None, ...]] = (
            (None,) * len(question.boxes) for question in questions
        )
        likelihoods = self.target.likelihoods(questions) if self.likelihoods else unknown
        for (record, trajectories), of_record, question, said, likely in zip(
            asked, boxes, questions, answers, likelihoods
        ):
            known = dict(zip(question.boxes, zip(said, likely), strict=True))
            yield Group(
                record,
                tuple(
                    _answered(trajectory, *known[box])
                    for trajectory, box in zip(trajectories, of_record)
                ),
            )


@dataclass
class _Given:
    """Boxes that need no model."""

    asked: AskedTarget
    name: str
    box_of: BoxOf

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        for batch in _batches(_sized(records)):
            asked = [
                (
                    record,
                    tuple(self._episode(record, size, rollout) for rollout in range(rollouts)),
                )
                for record, size in batch
            ]
            yield from self.asked.groups(asked, seed)

    def _episode(self, record: Record, size: Size, rollout: int) -> Trajectory:
        box = self.box_of(record, size, rollout)
        return episode(self.asked.target, record, size, rollout, box, self.name)


@dataclass
class _Attended:
    """ViCrop's boxes."""

    asked: AskedTarget
    name: str
    layer: int

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        if self.asked.attended is None:
            raise ValueError("rel_att needs the attention of a local target; give one by --target")
        for batch in _batches(_sized(records)):
            boxes = self.asked.attended(self.layer, [record for record, _ in batch])
            asked = [
                (
                    record,
                    tuple(
                        episode(self.asked.target, record, size, rollout, box, self.name)
                        for rollout in range(rollouts)
                    ),
                )
                for (record, size), box in zip(batch, boxes, strict=True)
            ]
            yield from self.asked.groups(asked, seed)


@dataclass
class _Again:
    """Stored episodes, answered once more."""

    asked: AskedTarget
    stored: Mapping[str, Group]

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        asked = [(record, self.stored[record.id].trajectories) for record in records]
        yield from self.asked.groups(asked, seed)


def episode(
    target: Target, record: Record, size: Size, rollout: int, box: Box4 | None, name: str
) -> Trajectory:
    """The episode of a box that was given, before the target has answered; `name` says where the
    box is from."""
    turns: tuple[Turn, ...] = ()
    end: End = "answered"
    if box is not None:
        turns, end = (Turn(0, 0, name, call=True, crop=Crop(box, box)),), "proposed"
    processor = target.dialogue.processor
    rows, columns = processor.grid(*pictures.shrunk(size, record.longest_side))
    return Trajectory(
        record=record.id,
        rollout=rollout,
        ids=np.zeros(0, np.int32),
        sampled=np.zeros(0, bool),
        logprobs=np.zeros(0, np.float32),
        policy_logprobs=np.zeros(0, np.float32),
        original=size,
        shown=(columns * processor.factor, rows * processor.factor),
        turns=turns,
        end=end,
        answer=None,
    )


def _answered(trajectory: Trajectory, said: Said, likelihood: float | None) -> Trajectory:
    return replace(trajectory, answer=said.answer, unanswered=said.fault, likelihood=likelihood)


def _box(trajectory: Trajectory) -> Box4 | None:
    """The box that an episode proposes."""
    crops = [turn.crop.box for turn in trajectory.turns if turn.crop is not None]
    return crops[-1] if crops else None


def _batches(sized: Iterator[tuple[Record, Size]]) -> Iterator[list[tuple[Record, Size]]]:
    while batch := list(itertools.islice(sized, _TOGETHER)):
        yield batch


def _sized(records: Iterable[Record]) -> Iterator[tuple[Record, Size]]:
    """The records with the sizes of their originals. Those whose picture cannot be opened are
    logged and left out, as an engine does."""
    for record in records:
        try:
            yield record, pictures.size(record.picture)
        except Unusable as error:
            log.warning("record %r skipped: %s", record.id, error)
