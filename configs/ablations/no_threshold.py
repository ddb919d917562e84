"""Stage II with IoU alone, rewarded whatever the overlap (Table 10).

    lfpc train --config ablations/no_threshold.py [--data.validation FOLDER]

Sizes are those of stage1.py: `ablations/no_threshold.py:3b`, `ablations/no_threshold.py:micro`.

Hardware: as stage1.py, for each size.

Expect:
- 7b (paper, HR-Bench 8K: accuracy, and IoU of FSP and FCP): 71.6 (29.3, 39.0).
- 3b: the paper has no figures. With 7b its boxes fit worse than with the threshold. Watch
  crop/overlap, which no threshold guards, and compare crop/iou with that of
  `ablations/conditional_iou.py:3b`.
- micro: more right answers and a higher IoU than `ablations/no_iou.py:micro` (docs/demo.md).
"""

from configs import common
from lfpc_jax.run.config import Grounding, Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return common.stage2(size, Rewards(grounding=1.0, boxes=Grounding(tau=None, w=1.0)))
