"""RL without the information gap, on uncompressed images as in the supplement, and with what the
authors likely ran where the paper gives no value: see authors_stage1.py.

    python launch/select_resolution.py data/focus data/focus-none --strategy none
    python launch/train.py --config authors_baseline.py [--data.validation FOLDER]

An image takes up to 16,384 visual tokens, Qwen2.5-VL's own limit, where baseline.py resizes it to
1,024; crops have 1,024 in both. How "uncompressed" the authors' images were is not published.

Hardware: more than stage1.py: a context of 32,768 holds the image, five whole turns and four crops.
By `launch/plan.py` a v5p:2x2x4 holds it as it is: 50 of 96 GiB a chip in rollouts, 44 in updates.
Expect: the paper's figures for the baseline, as baseline.py.
"""

from dataclasses import replace

from configs import baseline
from configs.authors_stage1 import likely
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = likely(baseline.get_config())
    rollout = replace(config.rollout, image_tokens=16384, capacity=32768, slots=64)
    return replace(config, rollout=rollout)
