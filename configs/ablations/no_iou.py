"""Stage II with no reward for boxes: Stage I's reward on Stage II's data (Table 10).

    lfpc train --config ablations/no_iou.py [--data.validation FOLDER]

Stage II is compared with it, since both train for as many steps: in the demo this arm is `control`.
Sizes are those of stage1.py: `ablations/no_iou.py:3b`, `ablations/no_iou.py:micro`.

Hardware: as stage1.py, for each size.

Expect:
- 7b (paper, HR-Bench 8K: accuracy, and IoU of FSP and FCP): 71.2 (30.6, 37.7).
- 3b: the paper has no figures. With 7b its boxes fit worse than with the reward. Watch crop/iou,
  which nothing rewards here, and compare crop/area_ratio with that of
  `ablations/conditional_iou.py:3b`.
- micro: what the additional steps alone are worth.
"""

from configs import common
from lfpc_jax.run.config import Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return common.stage2(size, Rewards())
