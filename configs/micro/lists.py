"""The third stage of the small world's warm start: a colour and its place.

    python launch/train.py --config micro/lists.py --run runs/warm/lists

Goes on from micro/words.py with twice as many lists as views.

Hardware: two CPU cores, ten minutes. Expect: a loss of about 0.3 nats a token.
"""

from dataclasses import replace

from configs.micro import words
from lfpc_jax.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (Source("listed", words.listed, weight=2.0), Source("views", words.views))
    return replace(
        config,
        steps=400,
        model=replace(config.model, path="runs/warm/words"),
        data=replace(config.data, train=sources),
    )
