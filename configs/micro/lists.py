"""The third stage of the small world's warm start: a colour and its place.

    python launch/train.py --config micro/lists.py --run runs/warm/lists

Goes on from micro/words.py with more lists of boxes than of anything else.

Hardware: two CPU cores, ten minutes. Expect: no figures were kept of this stage as it is. Watch
update/loss, which should go on falling; reward/accuracy is of what was demonstrated.
"""

from dataclasses import replace

from configs.micro import words
from lfpc_jax.config import Source, TrainConfig


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
