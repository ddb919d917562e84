"""Stage II with IoU alone, whatever the overlap (Table 10).

    python launch/train.py --config ablations/no_threshold.py [--data.validation FOLDER]

Hardware: as stage1.py. Expect (paper, HR-Bench 8K: accuracy, and IoU of FSP and FCP)
71.6 (29.3, 39.0).
"""

from dataclasses import replace

from configs import stage2
from lfpc_jax.rewards.grounding import Grounding
from lfpc_jax.rewards.total import Rewards
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    return replace(
        stage2.get_config(), rewards=Rewards(grounding=1.0, boxes=Grounding(tau=None, w=1.0))
    )
