"""One stage on both kinds of data at once (Table 8): the grounding reward where there are boxes.

    python launch/train.py --config mixed.py [--data.validation FOLDER]

Hardware: as stage1.py. Expect (paper, 1,024 tokens): 68.3 on HR-Bench 8K, 73.0 on 4K, 79.1 on V*:
worse than two stages.
"""

from dataclasses import replace

from configs import stage1
from lfpc_jax.rewards.total import Rewards
from lfpc_jax.run.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = stage1.get_config()
    both = (Source("data/focus-answer"), Source("data/boxes"))
    return replace(config, data=replace(config.data, train=both), rewards=Rewards(grounding=1.0))
