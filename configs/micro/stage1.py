"""Stage I in the small world: images so small that the warm start no longer answers from them.

    python launch/train.py --config micro/stage1.py

The data are what selection chose (`launch/demo.py` prints the command).

Hardware: two CPU cores, some minutes. Expect: crops that hold the
target, and validation/accuracy of 0.6 to 0.8, which falls to chance when crops become noise.
"""

from dataclasses import replace

from configs.micro import baseline
from lfpc_jax.run.config import Source, TrainConfig


def get_config() -> TrainConfig:
    config = baseline.get_config()
    selected = (Source(f"{baseline.FOLDER}/data/answer"),)
    return replace(config, data=replace(config.data, train=selected))
