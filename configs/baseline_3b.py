"""`baseline.py` with Qwen2.5-VL-3B.

    python launch/train.py --config baseline_3b.py

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 (see launch/plan.py). The paper has no figures for 3B.
"""

from dataclasses import replace

from configs import baseline
from lfpc_jax.config import TrainConfig


def get_config() -> TrainConfig:
    config = baseline.get_config()
    return replace(config, model=replace(config.model, path="Qwen2.5-VL-3B-Instruct"))
