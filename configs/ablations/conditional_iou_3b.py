"""`conditional_iou.py` with Qwen2.5-VL-3B.

    python launch/train.py --config ablations/conditional_iou_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B; with 7B its boxes fit best of the three (Table 10). Watch
crop/iou and crop/area_ratio beside the other two's.
"""

from dataclasses import replace

from configs.ablations import conditional_iou
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = conditional_iou.get_config()
    return replace(config, model=replace(config.model, path="runs/stage1_3b"))
