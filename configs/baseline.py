"""RL without the information gap: what Stage I is compared with.

    python launch/select_resolution.py data/focus data/focus-none --strategy none
    python launch/train.py --config baseline.py [--data.validation FOLDER]

Hardware: as stage1.py. Expect (paper, 7B, 1,024 tokens): 61.0 on HR-Bench 8K, 67.9 on 4K, 72.3 on
V*; accuracy barely falls when crops become noise (4.5, 0.5, 3.2 points): it crops for show.
"""

from dataclasses import replace

from configs import stage1
from lfpc_jax.run.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = stage1.get_config()
    return replace(config, data=replace(config.data, train=(Source("data/focus-none"),)))
