"""`stage1.py` with Qwen2.5-VL-3B.

    python launch/select_resolution.py data/focus data/focus-answer --model Qwen2.5-VL-3B-Instruct
    python launch/train.py --config stage1_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B. What Stage I is about shows in validation/gap, what blanked
crops take from the accuracy: it should rise, and end above baseline_3b.py's.
"""

from dataclasses import replace

from configs import stage1
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = stage1.get_config()
    return replace(config, model=replace(config.model, path="Qwen2.5-VL-3B-Instruct"))
