"""Group advantages: how much better each rollout did than the others of its prompt.

    A_i = (r_i - mean(r)) / std(r)

in float64. The deviation has one of three forms, of G rewards:

    population   sqrt(sum (r_i - mean)^2 / G)
    unbiased     sqrt(sum (r_i - mean)^2 / (G - 1)) + 1e-6, as verl has it; with 16 rollouts the
                 advantages are 3 % smaller
    none         1, as Dr. GRPO has it: A_i is the reward's distance from the mean, so groups whose
                 rewards lie far apart count more

If all rewards of a group are equal, its advantages are 0 and there is nothing to learn from it. A
rollout whose reward is unknown enters neither mean nor deviation, and has no advantage.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from lfpc_jax.trajectory import Group

Deviation = Literal["population", "unbiased", "none"]

_EPSILON = 1e-6
"""verl's, under the unbiased deviation."""

_EQUAL = 1e-8
"""Rewards that differ by less are equal but for rounding: they are sums of a few weights."""


def group_advantages(
    rewards: Sequence[float | None], deviation: Deviation = "population"
) -> Float64[np.ndarray, "G"]:
    """The advantage of each rollout; NaN where its reward is None."""
    known = np.array([np.nan if reward is None else reward for reward in rewards], np.float64)
    if np.isnan(known).all():
        return known
    centred = known - np.nanmean(known)
    spread = np.nanstd(known)
    if spread < _EQUAL:
        return centred * 0
    if deviation == "none":
        return centred
    if deviation == "unbiased":
        spread = np.nanstd(known, ddof=1) + _EPSILON
    return centred / spread


def with_advantages(group: Group, deviation: Deviation = "population") -> Group:
    """The group with the advantages of its total rewards."""
    totals = [rewards["total"] for rewards in group.rewards]
    return replace(group, advantages=group_advantages(totals, deviation))


def is_flat(group: Group) -> bool:
    """Whether no episode has an advantage, so that there is nothing to learn from the group."""
    assert group.advantages is not None
    return not np.nan_to_num(group.advantages).any()
