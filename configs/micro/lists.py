"""The third stage of the small world's warm start: to connect a colour with its place.

    lfpc train --config micro/lists.py --run runs/warm/lists

It begins with micro/words.py, with more lists of boxes than of anything else.

Hardware: two CPU cores, ten minutes. Expect: an update/loss that falls from 0.33 to 0.23 nats a
token.
"""

from dataclasses import replace

from configs.micro import words
from lfpc_jax.run.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (
        Source("listed", words.listed, weight=4.0),
        Source("told", words.told),
        Source("views", words.views),
    )
    return replace(
        config,
        steps=250,
        model=replace(config.model, path="runs/warm/words"),
        data=replace(config.data, train=sources),
    )
