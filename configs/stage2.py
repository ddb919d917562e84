"""Stage II, crop precisely: a reward for boxes that fit, on data with target boxes.

    lfpc train --config stage2.py [--data.validation FOLDER]

Sizes are those of stage1.py: `stage2.py:3b`, `stage2.py:micro`. Each begins with the last
checkpoint of Stage I at the same size (`runs/stage1`, `runs/stage1_3b`), with a new optimizer.
The paper's sizes train on `data/boxes`, 256 samples with hand-drawn nested boxes: a set in our
layout whose records have `targets`. The size at which their images are shown is Stage I's.

Hardware: as stage1.py, for each size.

Expect:
- 7b (paper, 1,024 tokens): 72.1 on HR-Bench 8K (83.3 FSP, 60.8 FCP), 75.3 on 4K, 80.6 on V*. The
  IoU rises and the boxes shrink.
- 3b: the paper has no figures. Over the run crop/iou should rise and crop/area_ratio fall, while
  reward/accuracy stays at least where Stage I left it.
- micro: compared with `ablations/no_iou.py:micro`, a higher IoU, boxes that are no larger and an
  accuracy that is no lower.
"""

from configs import common
from lfpc_jax.run.config import Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return common.stage2(size, Rewards(grounding=1.0))
