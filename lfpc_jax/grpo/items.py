"""From finished groups and their rewards to what an update learns from.

How much a sampled token counts in the loss:

    token      1 / (sampled tokens of the mini-batch)
    sequence   1 / (episodes of the mini-batch x sampled tokens of its episode)

over all processes. Episodes without a reward count nowhere. Those without an advantage count, but
have no gradient (unless a KL or entropy term gives them one), so they are left out of the arrays,
and of all that is watched but the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from lfpc_jax.grpo.advantage import group_advantages
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
    def of(cls, group: Rolled, rewards: Sequence[float | None]) -> "Scored":
        return cls(group, group_advantages(rewards))

    @property
    def flat(self) -> bool:
        """Whether there is nothing to learn from it."""
        return not np.nan_to_num(self.advantages).any()

    @property
    def counted(self) -> tuple[int, int]:
        """Episodes with a reward, and their sampled tokens."""
        known = ~np.isnan(self.advantages)
        tokens = [int(t.sampled.sum()) for t in self.group.trajectories]
        return int(known.sum()), int(np.array(tokens)[known].sum())


def items_of(
    scored: Sequence[Scored],
    *,
    aggregate: Aggregate,
    episodes: int,
    tokens: int,
    all_of_them: bool = False,
) -> list[Item]:
    """`episodes` and `tokens` are the whole mini-batch's; `all_of_them` keeps those without an
    advantage."""
    items = []
    for one in scored:
        prompt = _in_common(one.group.trajectories)
        for trajectory, crops, advantage in zip(
            one.group.trajectories, one.group.crops, one.advantages, strict=True
        ):
            own = int(trajectory.sampled.sum())
            if np.isnan(advantage) or not own or not (advantage or all_of_them):
                continue
            weight = 1 / tokens if aggregate == "token" else 1 / (episodes * own)
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
