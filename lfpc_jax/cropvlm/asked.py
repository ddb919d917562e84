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
from dataclasses import dataclass

import numpy as np

from lfpc_jax.cropvlm.boxes import BoxOf, boxes_of
from lfpc_jax.cropvlm.pair import answered
from lfpc_jax.cropvlm.target import Target
from lfpc_jax.data import pictures
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.evaluation.conditions import REL_ATT, TOOL, Runs, Stored, is_altered, layer_of
from lfpc_jax.trajectory import Box4, Crop, End, Group, Record, Size, Trajectory, Turn

log = logging.getLogger(__name__)

_TOGETHER = 256
"""Records whose boxes are found before the target answers them."""

Attended = Callable[[int | None, Sequence[Record]], Iterator[Box4 | None]]
"""ViCrop's boxes of records, in order, by the target's attention at a layer, or at the usual one; a
record that cannot be shown has none."""


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
        elif condition == REL_ATT or layer_of(condition) is not None:
            yield _Attended(self, condition, layer_of(condition))
        else:
            yield _Given(self, condition, boxes_of(condition, seed=seed))

    def answered(self, groups: Sequence[Group], seed: int) -> Iterator[Group]:
        return answered(self.target, groups, seed=seed, likelihoods=self.likelihoods)

    def given(self, record: Record, size: Size, boxes: Sequence[Box4 | None], name: str) -> Group:
        """The episodes of boxes that were given, before the target has answered; `name` says where
        the boxes are from."""
        processor = self.target.dialogue.processor
        rows, columns = processor.grid(*pictures.shrunk(size, record.longest_side))
        shown = columns * processor.factor, rows * processor.factor
        return Group(
            record,
            tuple(
                _episode(record, number, size, shown, box, name) for number, box in enumerate(boxes)
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
            groups = [
                self.asked.given(
                    record,
                    size,
                    [self.box_of(record, size, rollout) for rollout in range(rollouts)],
                    self.name,
                )
                for record, size in batch
            ]
            yield from self.asked.answered(groups, seed)


@dataclass
class _Attended:
    """ViCrop's boxes."""

    asked: AskedTarget
    name: str
    layer: int | None

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        if self.asked.attended is None:
            raise ValueError("rel_att needs the attention of a local target; give one by --target")
        for batch in _batches(_sized(records)):
            boxes = self.asked.attended(self.layer, [record for record, _ in batch])
            groups = [
                self.asked.given(record, size, [box] * rollouts, self.name)
                for (record, size), box in zip(batch, boxes, strict=True)
                if box is not None
            ]
            yield from self.asked.answered(groups, seed)


@dataclass
class _Again:
    """Stored episodes, answered once more."""

    asked: AskedTarget
    stored: Mapping[str, Group]

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        groups = (Group(record, self.stored[record.id].trajectories) for record in records)
        while batch := list(itertools.islice(groups, _TOGETHER)):
            yield from self.asked.answered(batch, seed)


def _episode(
    record: Record, rollout: int, original: Size, shown: Size, box: Box4 | None, name: str
) -> Trajectory:
    turns: tuple[Turn, ...] = ()
    end: End = "answered"
    if box is not None:
        turns, end = (Turn(0, 0, name, call=True, crop=Crop(box, box)),), "proposed"
    return Trajectory(
        record=record.id,
        rollout=rollout,
        ids=np.zeros(0, np.int32),
        sampled=np.zeros(0, bool),
        logprobs=np.zeros(0, np.float32),
        policy_logprobs=np.zeros(0, np.float32),
        original=original,
        shown=shown,
        turns=turns,
        end=end,
        answer=None,
    )


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
