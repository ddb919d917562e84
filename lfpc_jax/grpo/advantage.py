"""Group advantages: how much better each rollout did than the others of its prompt.

    A_i = (r_i - mean(r)) / std(r)

with the population's standard deviation, in float64. A group whose rewards are all equal has
nothing to learn from: its advantages are 0. A rollout whose reward could not be found out is in
neither mean nor deviation, and has no advantage.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

_EQUAL = 1e-8
"""Rewards are sums of a few weights: what differs by less differs by rounding."""


def group_advantages(rewards: Sequence[float | None]) -> Float64[np.ndarray, "G"]:
    """NaN where a reward is None."""
    known = np.array([np.nan if reward is None else reward for reward in rewards], np.float64)
    if np.isnan(known).all():
        return known
    centred = known - np.nanmean(known)
    spread = np.sqrt(np.nanmean(centred**2))
    return centred * 0 if spread < _EQUAL else centred / spread
