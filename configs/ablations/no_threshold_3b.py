"""`no_threshold.py` with Qwen2.5-VL-3B.

    python launch/train.py --config ablations/no_threshold_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B; with 7B its boxes fit worse than with the threshold. Watch
crop/overlap, which no threshold guards, and crop/iou beside conditional_iou_3b.py's.
"""

from dataclasses import replace

from configs.ablations import no_threshold
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = no_threshold.get_config()
    return replace(config, model=replace(config.model, path="runs/stage1_3b"))
