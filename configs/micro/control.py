"""Stage I continued for as many steps as Stage II has: what Stage II is compared with.

At a lower rate: at Stage I's it fell apart after 25 steps (docs/log.md).

    python launch/train.py --config micro/control.py

Hardware: two CPU cores, some minutes. Expect: what more steps alone are worth.
"""

from dataclasses import replace

from configs.micro import baseline, stage1
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = stage1.get_config()
    return replace(
        config,
        steps=30,
        model=replace(config.model, path=f"{baseline.FOLDER}/stage1-0"),
        optimizer=replace(config.optimizer, learning_rate=2e-4),
    )
