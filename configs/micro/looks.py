"""The last stage of the small world's warm start: more looks.

    python launch/train.py --config micro/looks.py --run runs/warm/looks

Goes on from micro/warmstart.py with seven looks in ten episodes and fewer sharp scenes, until boxes
lie at the block that is asked about. `make warmstart` runs all five stages and writes
configs/micro/warm, from which every arm of the demo begins.

Hardware: two CPU cores, ten minutes.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from configs.micro import warmstart, words
from lfpc_jax.config import Source, TrainConfig
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.trajectory import Record

SIDES = (56, 56, 56, 84, 112, 224, 224)
AT_ONCE = 0.3


def get_config() -> TrainConfig:
    config = warmstart.get_config()
    sources = (
        Source("scenes", scenes, weight=0.85),
        Source("listed", words.listed, weight=0.1),
        Source("views", words.views, weight=0.05),
    )
    return replace(
        config,
        steps=130,
        model=replace(config.model, path="runs/warm/start"),
        data=replace(config.data, train=sources),
        demonstrate=looked,
        without_tool=0.6,
    )


def scenes(path: str) -> Iterator[Record]:
    return warmstart.scenes(path, SIDES)


def looked(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    return warmstart.looked(record, view, rng, AT_ONCE)
