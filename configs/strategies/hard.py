"""Stage I at sizes chosen by the strategy `hard` (Table 9).

    python launch/select_resolution.py data/focus data/focus-hard --strategy hard
    python launch/train.py --config strategies/hard.py [--data.validation FOLDER]

Hardware: as stage1.py. Expect (paper, multi-target subsets of HR-Bench 8K, 4K, V*):
60.5 / 63.2 / 71.1; `answer`, which is stage1.py itself, has 62.0 / 63.5 / 75.0.
"""

from dataclasses import replace

from configs import stage1
from lfpc_jax.run.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = stage1.get_config()
    return replace(config, data=replace(config.data, train=(Source("data/focus-hard"),)))
