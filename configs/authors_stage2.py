"""Stage II with the values that the authors likely used where the paper gives none.

    lfpc train --config authors_stage2.py [--data.validation FOLDER]

It begins with the last checkpoint of runs/authors_stage1, with a new optimizer; see
authors_stage1.py. `authors_stage2.py:3b` begins with runs/authors_stage1_3b.

Hardware: as authors_stage1.py. Expect: the paper's figures, as for stage2.py.
"""

from dataclasses import replace

from configs import common, stage2
from configs.authors_stage1 import likely
from lfpc_jax.run.config import TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    common.published(size)
    config = likely(stage2.get_config(size))
    return replace(config, model=replace(config.model, path=common.run_of("authors_stage1", size)))
