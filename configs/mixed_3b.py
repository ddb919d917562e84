"""`mixed.py` with Qwen2.5-VL-3B.

    python launch/train.py --config mixed_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B. Held beside stage2_3b.py in evaluation, it should be no
better: in the paper it is worse with 7B. Watch crop/iou on the records with boxes.
"""

from dataclasses import replace

from configs import mixed
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = mixed.get_config()
    return replace(config, model=replace(config.model, path="Qwen2.5-VL-3B-Instruct"))
