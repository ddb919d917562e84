"""The prompts of a step: opened by the stream's threads, under names that are unique."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.distributed.exchange import everyones
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.trajectory import Record


def opener(dialogue: Dialogue) -> Callable[[Record], Opening]:
    """Returns what a stream's threads do with a record: everything that its prompt needs, while the
    device still updates."""

    def open_record(record: Record) -> Opening:
        try:
            return dialogue.open(record)
        except ValueError as error:
            raise Unusable("cannot be asked", str(error)) from error

    return open_record


def with_unique_ids(openings: Sequence[Opening]) -> list[Opening]:
    """Renames records that occur twice in a step's batch, in any process. An episode's randomness
    depends on its record's id, so equal ids would give the same episodes twice."""
    ids = everyones([opening.record.id for opening in openings])
    before = sum(map(len, ids[: jax.process_index()]))
    unique = unique_ids([id_ for of_process in ids for id_ in of_process])[before:]
    return [
        replace(opening, record=replace(opening.record, id=id_))
        for opening, id_ in zip(openings, unique)
    ]


def unique_ids(ids: Sequence[str]) -> list[str]:
    """The second record with an id gets `id#2`, unless another record has that id."""
    counts: Counter[str] = Counter()
    taken, unique = set(ids), []
    for id_ in ids:
        counts[id_] += 1
        new = id_
        while counts[id_] > 1 and new in taken:
            new = f"{id_}#{counts[id_]}"
            counts[id_] += new in taken
        taken.add(new)
        unique.append(new)
    return unique
