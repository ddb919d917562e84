"""Stage II with no reward for boxes at all: Stage I's reward on Stage II's data (Table 10).

    python launch/train.py --config ablations/no_iou.py [--data.validation FOLDER]

Hardware: as stage1.py. Expect (paper, HR-Bench 8K: accuracy, and IoU of FSP and FCP)
71.2 (30.6, 37.7).
"""

from dataclasses import replace

from configs import stage2
from lfpc_jax.rewards.total import Rewards
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    return replace(stage2.get_config(), rewards=Rewards())
