"""`hard.py` with Qwen2.5-VL-3B.

    python launch/select_resolution.py data/focus data/focus-hard --strategy hard
    python launch/train.py --config strategies/hard_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B; with 7B it is behind `answer` on V* (71.1 and 75.0). Watch
reward/accuracy and validation/gap beside stage1_3b.py's.
"""

from dataclasses import replace

from configs.strategies import hard
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = hard.get_config()
    return replace(config, model=replace(config.model, path="Qwen2.5-VL-3B-Instruct"))
