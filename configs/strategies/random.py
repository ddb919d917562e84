"""Stage I on image sizes that the strategy `random` chose (Table 9).

    lfpc select data/focus data/focus-random --strategy random
    lfpc train --config strategies/random.py [--data.validation FOLDER]

Sizes are those of stage1.py: `strategies/random.py:3b`, `strategies/random.py:micro`.

Hardware: as stage1.py, for each size.

Expect:
- 7b (paper, multi-target subsets of HR-Bench 8K, 4K and V*): 59.0 / 64.0 / 72.4. The strategy
  `answer`, which is stage1.py itself, has 62.0 / 63.5 / 75.0.
- 3b: the paper has no figures. With 7b it is behind `answer` on V* (72.4 and 75.0). Compare
  reward/accuracy and validation/gap with those of `stage1.py:3b`.
- micro: much as `stage1.py:micro`; seeds differ by more
  (docs/demo.md).
"""

from configs import common
from lfpc_jax.run.config import TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return common.stage1(size, ("random",))
