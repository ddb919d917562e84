"""How old the weights were that drew a step's tokens, in updates since then."""

from collections.abc import Sequence
from dataclasses import replace

from lfpc_jax.distributed.exchange import total
from lfpc_jax.trajectory import Group, Trajectory


def mean_staleness(groups: Sequence[Group], now: int) -> float:
    """The mean over the sampled tokens of all processes; `now` is the version of the weights that
    will be updated. Tokens without a version count as fresh."""
    runs = [run for group in groups for t in group.trajectories for run in t.versions]
    sampled = sum(int(t.sampled.sum()) for group in groups for t in group.trajectories)
    age, tokens = total([sum((now - of) * count for of, count in runs), sampled])
    return age / tokens if tokens else 0.0


def without_stale(groups: Sequence[Group], now: int, most: int | None) -> tuple[list[Group], float]:
    """The groups without the episodes that have a token older than `most` updates, and the share of
    these among the episodes of all processes. Groups without any other episode are left out."""
    kept = [_without_stale(group, now, most) for group in groups]
    before, after = total([sum(len(g.trajectories) for g in each) for each in (groups, kept)])
    return [group for group in kept if group.trajectories], 1 - after / before if before else 0.0


def _without_stale(group: Group, now: int, most: int | None) -> Group:
    places = [
        place
        for place, trajectory in enumerate(group.trajectories)
        if most is None or _oldest(trajectory, now) <= most
    ]
    if len(places) == len(group.trajectories):
        return group
    return replace(
        group,
        trajectories=tuple(group.trajectories[place] for place in places),
        crops=tuple(group.crops[place] for place in places) if group.crops else (),
    )


def _oldest(trajectory: Trajectory, now: int) -> int:
    return max((now - of for of, count in trajectory.versions if count), default=0)
