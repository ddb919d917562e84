"""`random.py` with Qwen2.5-VL-3B.

    python launch/select_resolution.py data/focus data/focus-random --strategy random
    python launch/train.py --config strategies/random_3b.py [--data.validation FOLDER]

Hardware: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32`
(docs/scaling.md).
Expect: the paper has no figures for 3B; with 7B it is behind `answer` on V* (72.4 and 75.0). Watch
reward/accuracy and validation/gap beside stage1_3b.py's.
"""

from dataclasses import replace

from configs.strategies import random
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = random.get_config()
    return replace(config, model=replace(config.model, path="Qwen2.5-VL-3B-Instruct"))
