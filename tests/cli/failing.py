"""The small run with a reward of one's own that fails until REPAIRED is set."""

import os
from dataclasses import replace

from lfpc_jax.rewards.total import OwnReward, Rewards
from lfpc_jax.run.config import TrainConfig
from support import micro


def get_config() -> TrainConfig:
    rewards = Rewards(own=(OwnReward("mine", 0.5, mine),))
    return replace(micro.get_config(), steps=1, rewards=rewards)


def mine(trajectory, record) -> float:
    if "REPAIRED" not in os.environ:
        raise KeyError("box")
    return float(trajectory.rollout)
