"""From finished groups and their rewards to what an update learns from.

How much a sampled token counts in the loss:

    token      1 / (sampled tokens of the mini-batch)
    sequence   1 / (episodes of the mini-batch x sampled tokens of its episode)

over all processes. With micro-batches of `micro_batch` episodes, as verl has it, that is the mean
over each one's own tokens (or episodes), and then over those that hold anything:

    token      1 / (micro-batches x sampled tokens of its micro-batch)
    sequence   1 / (micro-batches x episodes of its micro-batch x sampled tokens of its episode)

They are runs of a group's rollouts in their order, so how episodes are packed, and into which rows,
changes none of it. Episodes without a reward count nowhere. Those without an advantage count, but
have no gradient (unless a KL or entropy term gives them one), so they are left out of the arrays,
and of all that is watched but the loss.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, UInt8

from lfpc_jax.grpo.packing import Item, Shown
from lfpc_jax.trajectory import Group, Trajectory

Aggregate = Literal["token", "sequence"]


def counts(group: Group) -> tuple[int, int]:
    """How many episodes of the group have a reward, and how many tokens these sampled."""
    [whole] = counts_by(group, len(group.trajectories))
    return whole


def counts_by(group: Group, size: int) -> list[tuple[int, int]]:
    """The same of each run of `size` rollouts."""
    known = ~np.isnan(_advantages(group))
    tokens = known * [int(t.sampled.sum()) for t in group.trajectories]
    runs = [slice(first, first + size) for first in range(0, len(known), size)]
    return [(int(known[run].sum()), int(tokens[run].sum())) for run in runs]


def items_of(
    groups: Sequence[Group],
    *,
    aggregate: Aggregate,
    episodes: int,
    tokens: int,
    micro_batch: int = 0,
    micro_batches: int = 1,
    all_of_them: bool = False,
) -> list[Item]:
    """`episodes`, `tokens` and, where `micro_batch` is not 0, `micro_batches` are the whole
    mini-batch's; `all_of_them` keeps those without an advantage."""
    items = []
    for group in groups:
        prompt = _in_common(group.trajectories)
        size = micro_batch or len(group.trajectories)
        means = counts_by(group, size) if micro_batch else [(episodes, tokens)]
        every = zip(group.trajectories, group.crops, _advantages(group), strict=True)
        for place, (trajectory, crops, advantage) in enumerate(every):
            length = int(trajectory.sampled.sum())
            if np.isnan(advantage) or not length or not (advantage or all_of_them):
                continue
            among, all_tokens = means[place // size]
            share = all_tokens if aggregate == "token" else among * length
            weight = 1 / (micro_batches * share)
            pictures = _pictures(group, trajectory, crops)
            weights = np.where(trajectory.sampled, weight, 0.0).astype(np.float32)
            items.append(Item(trajectory, pictures, float(advantage), weights, prompt))
    return items


def _pictures(
    group: Group, trajectory: Trajectory, crops: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> tuple[Shown, ...]:
    """An episode's pictures: the image that its group shares, then its own crops."""
    record = group.record.id
    image = [] if group.image is None else [Shown(record, group.image)]
    cropped = [
        Shown((record, trajectory.rollout, number), crop) for number, crop in enumerate(crops)
    ]
    return (*image, *cropped)


def _advantages(group: Group) -> Float64[np.ndarray, "G"]:
    assert group.advantages is not None, f"record {group.record.id!r}: advantages are not known yet"
    return group.advantages


def _in_common(trajectories: Sequence[Trajectory]) -> int:
    """How many ids all of them begin with before anything was sampled."""
    first, *others = trajectories
    least = min(int(np.cumsum(t.sampled).searchsorted(1)) for t in trajectories)
    for other in others:
        differs = np.flatnonzero(first.ids[:least] != other.ids[:least])
        least = int(differs[0]) if len(differs) else least
    return least
