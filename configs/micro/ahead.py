"""Stage I of the small world with prompts of the next step begun in slots that fall free.

    lfpc train --config micro/ahead.py
    lfpc demo --out runs/ahead --arms stage1 ahead --seeds 0 1 2

It is `stage1.py:micro` with `rollout.ahead` 1, on the set that `lfpc demo` selects. The second
command compares both. No result of the paper needs it; at other sizes the same settings are flags
of `stage1.py`. Turns of the small world are 20 tokens long, so with a chunk of 8 a quarter of the
slots' steps would go to rows that have just ended or wait for a crop (`bench/occupancy.py`).

Hardware: two CPU cores, some minutes.

Expect: a rollout/occupancy of 0.85, where `stage1.py:micro` has 0.54.
"""

from dataclasses import replace

from configs import common
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    config = common.stage1(common.MICRO)
    objective = replace(config.update.objective, importance_cap=2.0)
    return replace(
        config,
        rollout=replace(config.rollout, ahead=1, chunk=4),
        update=replace(config.update, objective=objective),
    )
