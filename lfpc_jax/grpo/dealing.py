"""A step's groups, dealt to its mini-batches.

Which mini-batch a group belongs to depends on its prompt's place in the step's batch alone. So
updates depend neither on the order in which episodes end nor on the number of processes.
"""

from collections.abc import Mapping, Sequence

from lfpc_jax.trajectory import Group


def deal(
    groups: Sequence[Group], places: Mapping[str, int], mini_batches: int
) -> list[list[Group]]:
    """The groups of each mini-batch. `places` gives the place of a record in the step's batch.

    Places are dealt out in turn. Since a process holds a run of places, every process brings as
    many groups to each mini-batch as any other, or nearly.
    """
    dealt: list[list[Group]] = [[] for _ in range(mini_batches)]
    for group in groups:
        dealt[places[group.record.id] % mini_batches].append(group)
    return dealt
