"""A target model as an evaluation asks it: with boxes of a crop network, with others, with none.

Every condition yields ordinary groups, which are stored, graded and shown as the episodes of a
model are (see `given` in `cropvlm.boxes` for boxes that no network proposed). An altered crop is
that of the box which the crop network proposed under `tool`: the network is not asked again, and
the stored episode gets another answer.

The target answers each different box of a record once, and rollouts with the same box share it.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from lfpc_jax.cropvlm.boxes import boxes_of, given, size_of
from lfpc_jax.cropvlm.pair import answered
from lfpc_jax.cropvlm.target import Target
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.evaluation.conditions import REL_ATT, TOOL, Runs, Stored, is_altered, layer_of
from lfpc_jax.trajectory import Box4, Group, Record, Size

log = logging.getLogger(__name__)

T = TypeVar("T")

_TOGETHER = 256
"""Records whose boxes are found before the target answers them."""

Attended = Callable[[int | None, Sequence[Record]], Iterator[Box4 | None]]
"""ViCrop's boxes of records, in order, by the target's attention at a layer, or at the usual one; a
record that cannot be shown has none."""

Unanswered = Callable[[Iterable[Record], int], Iterator[Group]]
"""The groups of records, of so many rollouts each, that the target is to answer."""


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
                yield _Answers(self, self._stored(stored))
        elif condition == REL_ATT or layer_of(condition) is not None:
            yield _Answers(self, self._attended(condition))
        else:
            yield _Answers(self, self._given(condition, seed))

    def _stored(self, stored: Stored) -> Unanswered:
        by_record = stored()

        def groups(records: Iterable[Record], rollouts: int) -> Iterator[Group]:
            for record in records:
                yield Group(record, by_record[record.id].trajectories)

        return groups

    def _given(self, condition: str, seed: int) -> Unanswered:
        """Boxes that need no model."""
        box_of, processor = boxes_of(condition, seed=seed), self.target.dialogue.processor

        def groups(records: Iterable[Record], rollouts: int) -> Iterator[Group]:
            for record, size in _sized(records):
                boxes = [box_of(record, size, rollout) for rollout in range(rollouts)]
                yield given(record, size, boxes, processor, condition)

        return groups

    def _attended(self, condition: str) -> Unanswered:
        """ViCrop's boxes."""
        if self.attended is None:
            raise ValueError("rel_att needs the attention of a local target; give one by --target")
        attended, processor = self.attended, self.target.dialogue.processor

        def groups(records: Iterable[Record], rollouts: int) -> Iterator[Group]:
            for batch in _batches(_sized(records)):
                boxes = attended(layer_of(condition), [record for record, _ in batch])
                for (record, size), box in zip(batch, boxes, strict=True):
                    if box is not None:
                        yield given(record, size, [box] * rollouts, processor, condition)

        return groups


@dataclass
class _Answers:
    """Groups that the target answers, a batch at a time."""

    asked: AskedTarget
    groups: Unanswered

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        asked = self.asked
        for batch in _batches(self.groups(records, rollouts)):
            yield from answered(asked.target, batch, seed=seed, likelihoods=asked.likelihoods)


def _batches(values: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(itertools.islice(values, _TOGETHER)):
        yield batch


def _sized(records: Iterable[Record]) -> Iterator[tuple[Record, Size]]:
    """The records with the sizes of their originals. Those whose picture cannot be opened are
    logged and left out, as an engine does."""
    for record in records:
        try:
            yield record, size_of(record)
        except Unusable as error:
            log.warning("record %r skipped: %s", record.id, error)
