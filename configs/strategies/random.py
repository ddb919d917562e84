"""Stage I at sizes chosen by the strategy `random` (Table 9).

    python launch/select_resolution.py data/focus data/focus-random --strategy random
    python launch/train.py --config strategies/random.py [--data.validation FOLDER]

Hardware: as stage1.py. Expect (paper, multi-target subsets of HR-Bench 8K, 4K, V*):
59.0 / 64.0 / 72.4; `answer`, which is stage1.py itself, has 62.0 / 63.5 / 75.0.
"""

from dataclasses import replace

from configs import stage1
from lfpc_jax.run.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = stage1.get_config()
    return replace(config, data=replace(config.data, train=(Source("data/focus-random"),)))
