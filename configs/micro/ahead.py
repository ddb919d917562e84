"""Stage I of the small world with prompts of the next step begun in slots that fall free.

    lfpc train --config micro/ahead.py
    lfpc demo --out runs/ahead --arms stage1 ahead --seeds 0 1 2 --questions 500

It is `stage1.py:micro` with `rollout.ahead` 1, on the set that `launch/demo.py` selects. The second
command compares both, so what older weights drew is worth as much, or it is not. No result of the
paper needs it; at other sizes the same two settings are flags of `stage1.py`.

Hardware: two CPU cores, some minutes.

Expect: validation/accuracy as that of `stage1.py:micro`, update/staleness of about a half between
validations, and rollout/occupancy above that of `stage1.py:micro`.
"""

from dataclasses import replace

from configs import common
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = common.stage1(common.MICRO)
    objective = replace(config.update.objective, importance_cap=2.0)
    return replace(
        config,
        rollout=replace(config.rollout, ahead=1),
        update=replace(config.update, objective=objective),
    )
