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
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from lfpc_jax.grpo.advantage import Deviation, group_advantages
from lfpc_jax.grpo.packing import Item, Shown
from lfpc_jax.rollout.engine import Rolled
from lfpc_jax.trajectory import Trajectory

Aggregate = Literal["token", "sequence"]


@dataclass(frozen=True, eq=False)
class Scored:
    """A group and its rollouts' advantages, NaN where a reward is not known."""

    group: Rolled
    advantages: Float64[np.ndarray, "G"]

    @classmethod
    def of(
        cls,
        group: Rolled,
        rewards: Sequence[float | None],
        deviation: Deviation = "population",
    ) -> "Scored":
        return cls(group, group_advantages(rewards, deviation))

    @property
    def flat(self) -> bool:
        """Whether there is nothing to learn from it."""
        return not np.nan_to_num(self.advantages).any()

    @property
    def counted(self) -> tuple[int, int]:
        """Episodes with a reward, and their sampled tokens."""
        [counts] = self.counted_by(len(self.advantages))
        return counts

    def counted_by(self, size: int) -> list[tuple[int, int]]:
        """The same of each run of `size` rollouts."""
        known = ~np.isnan(self.advantages)
        tokens = known * [int(t.sampled.sum()) for t in self.group.trajectories]
        runs = [slice(first, first + size) for first in range(0, len(known), size)]
        return [(int(known[run].sum()), int(tokens[run].sum())) for run in runs]


def items_of(
    scored: Sequence[Scored],
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
    for one in scored:
        prompt = _in_common(one.group.trajectories)
        size = micro_batch or len(one.advantages)
        means = one.counted_by(size) if micro_batch else [(episodes, tokens)]
        every = zip(one.group.trajectories, one.group.crops, one.advantages, strict=True)
        for place, (trajectory, crops, advantage) in enumerate(every):
            own = int(trajectory.sampled.sum())
            if np.isnan(advantage) or not own or not (advantage or all_of_them):
                continue
            among, all_tokens = means[place // size]
            share = all_tokens if aggregate == "token" else among * own
            weight = 1 / (micro_batches * share)
            record = one.group.record.id
            shown = [] if one.group.shown is None else [Shown(record, one.group.shown)]
            cut = (
                Shown((record, trajectory.rollout, number), crop)
                for number, crop in enumerate(crops)
            )
            weights = np.where(trajectory.sampled, weight, 0.0).astype(np.float32)
            items.append(Item(trajectory, (*shown, *cut), float(advantage), weights, prompt))
    return items


def _in_common(trajectories: Sequence[Trajectory]) -> int:
    """How many ids all of them begin with before anything was sampled."""
    first, *others = trajectories
    least = min(int(np.cumsum(t.sampled).searchsorted(1)) for t in trajectories)
    for other in others:
        differs = np.flatnonzero(first.ids[:least] != other.ids[:least])
        least = int(differs[0]) if len(differs) else least
    return least
