"""Stage II, crop precisely: the grounding reward on 256 samples with hand-drawn nested boxes.

    python launch/train.py --config stage2.py [--data.validation FOLDER]

Goes on from the last checkpoint of runs/stage1, with an optimizer of its own. `data/boxes` is a set
in our layout whose records have `targets`; the size they are shown at is Stage I's.

Hardware: as stage1.py. Expect (paper, 1,024 tokens): 72.1 on HR-Bench 8K (83.3 FSP, 60.8 FCP), 75.3
on 4K, 80.6 on V*; IoU rises and the boxes shrink.
"""

from dataclasses import replace

from configs import stage1
from lfpc_jax.rewards.total import Rewards
from lfpc_jax.run.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = stage1.get_config()
    return replace(
        config,
        model=replace(config.model, path="runs/stage1"),
        data=replace(config.data, train=(Source("data/boxes"),)),
        rewards=Rewards(grounding=1.0),
        optimizer=replace(config.optimizer, learning_rate=5e-7),
    )
