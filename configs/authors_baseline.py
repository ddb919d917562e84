"""RL without the information gap, with the values that the authors likely used.

    lfpc select data/focus data/focus-none --strategy none
    lfpc train --config authors_baseline.py [--data.validation FOLDER]

The values are those of authors_stage1.py. Images are uncompressed, as in the paper's supplement: an
image takes up to 16,384 visual tokens, Qwen2.5-VL's own limit, where baseline.py resizes it to
1,024. Crops take 1,024 in both. How "uncompressed" the authors' images were is not published.
`authors_baseline.py:3b` trains Qwen2.5-VL-3B.

Hardware: more than stage1.py, since a context of 32,768 holds the image, five whole turns and four
crops. By `lfpc plan` a v5p:2x2x4 holds the 7B model as it is: 36 of 96 GiB a chip in rollouts,
44 in updates.

Expect: the paper's figures for the baseline, as for baseline.py.
"""

from dataclasses import replace

from configs import baseline, common
from configs.authors_stage1 import likely
from lfpc_jax.run.config import TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    common.published(size)
    config = likely(baseline.get_config(size))
    rollout = replace(config.rollout, image_tokens=16384, capacity=32768, slots=64)
    return replace(config, rollout=rollout)
