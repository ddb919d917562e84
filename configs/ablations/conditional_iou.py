"""Stage II with IoU alone, rewarded above the threshold: the paper's own design in Table 10.

    lfpc train --config ablations/conditional_iou.py [--data.validation FOLDER]

Sizes are those of stage1.py: `ablations/conditional_iou.py:3b`,
`ablations/conditional_iou.py:micro`.

Hardware: as stage1.py, for each size.

Expect:
- 7b (paper, HR-Bench 8K: accuracy, and IoU of FSP and FCP): 72.7 (39.3, 47.4).
- 3b: the paper has no figures. With 7b its boxes fit best of the three designs. Compare crop/iou
  and crop/area_ratio with those of the other two.
- micro: more right answers and a higher IoU than `ablations/no_iou.py:micro` (docs/demo.md).
"""

from configs import common
from lfpc_jax.run.config import Grounding, Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return common.stage2(size, Rewards(grounding=1.0, boxes=Grounding(w=1.0)))
