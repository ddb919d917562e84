"""Stage II in the small world: Stage I's model, rewarded for boxes that fit as well.

    python launch/train.py --config micro/stage2.py

Hardware: two CPU cores, some minutes. Expect, against micro/control.py: a higher IoU, boxes
no larger and an accuracy no lower.
"""

from dataclasses import replace

from configs.micro import control
from lfpc_jax.rewards.total import Rewards
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    return replace(control.get_config(), rewards=Rewards(grounding=1.0))
