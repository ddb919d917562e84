"""One stage on both kinds of data at once (Table 8). Records with boxes have the grounding reward.

    lfpc train --config mixed.py [--data.validation FOLDER]

Sizes are those of stage1.py: `mixed.py:3b`, `mixed.py:micro`.

Hardware: as stage1.py, for each size.

Expect:
- 7b (paper, 1,024 tokens): 68.3 on HR-Bench 8K, 73.0 on 4K, 79.1 on V*, which is worse than two
  stages.
- 3b: the paper has no figures. In an evaluation it should be no better than `stage2.py:3b`. Watch
  crop/iou on the records with boxes.
- micro: more IoU than `stage1.py:micro` (docs/demo.md).
"""

from dataclasses import replace

from configs import common
from lfpc_jax.run.config import Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return replace(common.stage1(size, ("answer", "boxes")), rewards=Rewards(grounding=1.0))
