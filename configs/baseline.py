"""RL without the information gap. Stage I is compared with it.

    lfpc select data/focus data/focus-none --strategy none
    lfpc train --config baseline.py [--data.validation FOLDER]

Sizes are those of stage1.py: `baseline.py:3b`, `baseline.py:micro`.

Hardware: as stage1.py, for each size.

Expect:
- 7b (paper, 1,024 tokens): 61.0 on HR-Bench 8K, 67.9 on 4K, 72.3 on V*. Accuracy hardly falls when
  crops are replaced by noise (4.5, 0.5 and 3.2 points), so its crops are of little use.
- 3b: the paper has no figures. validation/gap should stay below that of `stage1.py:3b`, however
  often it crops (crop/rate).
- micro: it always calls the tool, but points badly, and answers sharp images at once, so noise in
  its crops takes little (docs/demo.md).
"""

from configs import common
from lfpc_jax.run.config import TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return common.stage1(size, ("none",))
