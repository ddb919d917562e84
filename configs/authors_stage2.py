"""Stage II with what the authors likely ran where the paper gives no value: see authors_stage1.py.

    python launch/train.py --config authors_stage2.py [--data.validation FOLDER]

Goes on from the last checkpoint of runs/authors_stage1, with an optimizer of its own.

Hardware: as authors_stage1.py. Expect: the paper's figures, as stage2.py.
"""

from dataclasses import replace

from configs import stage2
from configs.authors_stage1 import likely
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = likely(stage2.get_config())
    return replace(config, model=replace(config.model, path="runs/authors_stage1"))
