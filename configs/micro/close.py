"""The first stage of the small world's warm start, from random weights: the model learns to see.

    lfpc new-model runs/warm/random
    lfpc train --config micro/close.py --run runs/warm/close

The pictures are close views of marks, and the answer says which way their stripes run. Trained
alone, the model reads them after 200 to 300 updates; together with anything else, not even after
600 (docs/log.md). `make warmstart` runs all five stages and writes configs/micro/warm, from which
every arm of the demo begins.

Hardware: two CPU cores, five minutes. Expect: a loss that stays at 0.47 nats a token until step
140, then falls and ends at 0.03.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from configs.micro import words
from lfpc_jax.run.config import Record, Source, TrainConfig, View

WIDEST = 0.25


def get_config() -> TrainConfig:
    config = words.get_config()
    return replace(
        config,
        steps=400,
        model=replace(config.model, path="runs/warm/random"),
        data=replace(config.data, train=(Source("close", close),)),
        rollout=replace(config.rollout, image_tokens=12),
        update=replace(config.update, windows=40),
        demonstrate=answered,
    )


def answered(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    return (words.given(record),)


def close(path: str) -> Iterator[Record]:
    return words.views(path, WIDEST)
