"""The episodes that an update learns from, made from groups with advantages.

The weight of a sampled token in the loss:

    token      1 / (sampled tokens of the mini-batch)
    sequence   1 / (episodes of the mini-batch x sampled tokens of its episode)
    constant   1 / (episodes of the mini-batch x `constant_length`), as Dr. GRPO has it: a token
               counts the same in short episodes and long ones

where the mini-batch is that of all processes. With micro-batches of `micro_batch` episodes, as verl
has it, the mean is taken over the tokens (or episodes) of each micro-batch, and then over the
micro-batches that hold anything:

    token      1 / (micro-batches x sampled tokens of its micro-batch)
    sequence   1 / (micro-batches x episodes of its micro-batch x sampled tokens of its episode)
    constant   1 / (micro-batches x episodes of its micro-batch x `constant_length`)

These micro-batches are runs of a group's rollouts in their order, so they do not depend on how
episodes are packed. Episodes without a reward count nowhere. Episodes whose advantage is 0 count in
the means, but have no gradient (unless a KL or entropy term gives them one). So they are left out
of the arrays, and of all metrics of the update but the loss.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, UInt8

from lfpc_jax.grpo.packing import Item, SeenPicture
from lfpc_jax.trajectory import Group, Trajectory

Aggregate = Literal["token", "sequence", "constant"]


def counts(group: Group) -> tuple[int, int]:
    """How many episodes of the group have a reward, and how many tokens these sampled."""
    [whole] = counts_by(group, len(group.trajectories))
    return whole


def counts_by(group: Group, size: int) -> list[tuple[int, int]]:
    """As `counts`, for each run of `size` rollouts."""
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
    constant_length: int = 0,
    all_of_them: bool = False,
) -> list[Item]:
    """One item for each episode with a gradient, or for each with a reward if `all_of_them`.

    `episodes` and `tokens` count the whole mini-batch. If `micro_batch` is not 0, `micro_batches`
    counts its micro-batches that hold anything. `constant_length` is the divisor of `constant`.
    """
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
            divisor = {
                "token": all_tokens,
                "sequence": among * length,
                "constant": among * constant_length,
            }[aggregate]
            weight = 1 / (micro_batches * divisor)
            pictures = _pictures(group, trajectory, crops)
            weights = np.where(trajectory.sampled, weight, 0.0).astype(np.float32)
            items.append(Item(trajectory, pictures, float(advantage), weights, prompt))
    return items


def _pictures(
    group: Group, trajectory: Trajectory, crops: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> tuple[SeenPicture, ...]:
    """An episode's pictures: the image that its group shares, then its own crops."""
    record = group.record.id
    image = [] if group.image is None else [SeenPicture(record, group.image)]
    cropped = [
        SeenPicture((record, trajectory.rollout, number), crop) for number, crop in enumerate(crops)
    ]
    return (*image, *cropped)


def _advantages(group: Group) -> Float64[np.ndarray, "G"]:
    assert group.advantages is not None, f"record {group.record.id!r}: advantages are not known yet"
    return group.advantages


def _in_common(trajectories: Sequence[Trajectory]) -> int:
    """How many ids all trajectories share at their beginning, before anything was sampled."""
    first, *others = trajectories
    least = min(int(np.cumsum(t.sampled).searchsorted(1)) for t in trajectories)
    for other in others:
        differs = np.flatnonzero(first.ids[:least] != other.ids[:least])
        least = int(differs[0]) if len(differs) else least
    return least
