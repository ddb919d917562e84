"""`baseline.py` with Qwen2.5-VL-3B.

    python launch/select_resolution.py data/focus data/focus-none --strategy none
    python launch/train.py --config baseline_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B. Beside stage1_3b.py, validation/gap should stay small
however often it crops (crop/rate).
"""

from dataclasses import replace

from configs import baseline
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = baseline.get_config()
    return replace(config, model=replace(config.model, path="Qwen2.5-VL-3B-Instruct"))
