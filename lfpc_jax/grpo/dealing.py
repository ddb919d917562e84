"""Assigns a step's groups to its mini-batches.

The mini-batch of a group depends only on its prompt's place in the step's batch. So updates depend
neither on the order in which episodes end nor on the number of processes.
"""

from collections.abc import Mapping, Sequence

from lfpc_jax.trajectory import Group


def deal(
    groups: Sequence[Group], places: Mapping[str, int], mini_batches: int
) -> list[list[Group]]:
    """The groups of each mini-batch. `places` gives the place of a record in the step's batch.

    Consecutive places go to different mini-batches in turn. A process has consecutive places, so
    all processes bring about equally many groups to each mini-batch.
    """
    dealt: list[list[Group]] = [[] for _ in range(mini_batches)]
    for group in groups:
        dealt[places[group.record.id] % mini_batches].append(group)
    return dealt
