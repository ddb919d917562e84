"""`stage2.py` with Qwen2.5-VL-3B.

    python launch/train.py --config stage2_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B. Over the run crop/iou should rise and crop/area_ratio fall,
with reward/accuracy no lower than Stage I left it.
"""

from dataclasses import replace

from configs import stage2
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = stage2.get_config()
    return replace(config, model=replace(config.model, path="runs/stage1_3b"))
