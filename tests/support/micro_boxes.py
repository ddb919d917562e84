"""Training runs of a small crop network that are small enough for a test.

Where the models and the data lie is in the environment, as a test sets it: the crop network in
boxes/, the target in hf/, and the records in set/.
"""

import os
from dataclasses import replace
from pathlib import Path

from lfpc_jax.cropvlm.proposing import write_box
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.run.config import Rewards, TargetSettings, TrainConfig
from support import micro

ACCURACY = Rewards(accuracy=1.0, format=0.0, tool=0.0, valid=1.0)
LIKELIHOOD = Rewards(accuracy=0.0, format=0.0, tool=0.0, likelihood=0.1, valid=1.0)
BOXES = Rewards(accuracy=0.0, format=0.0, tool=0.0, valid=1.0)


def get_config(kind: str) -> TrainConfig:
    """`accuracy` and `likelihood` are the rewards of stage grpo; `sft` validates with the target,
    and `alone` without."""
    folder = Path(os.environ["MICRO"])
    config = micro.with_one_update()
    config = replace(
        config,
        model=replace(config.model, path=str(folder / "boxes")),
        target=TargetSettings(
            path=str(folder / "hf"), image_tokens=24, crop_tokens=16, answer_tokens=8, slots=8
        ),
        rollout=replace(
            config.rollout,
            dialogue="box",
            convention="percent",
            max_turns=1,
            turn_tokens=24,
            episode_tokens=0,
            capacity=128,
            prompt_text=(64,),
        ),
        rewards=LIKELIHOOD if kind == "likelihood" else ACCURACY,
    )
    if kind in ("accuracy", "likelihood"):
        return config
    return replace(
        config,
        stage="sft",
        rewards=BOXES,
        target=None if kind == "alone" else config.target,
        update=replace(config.update, objective=Objective(kind="sft")),
        demonstrate=demonstrated,
    )


def demonstrated(record, view, rng) -> tuple[str, ...]:
    return (write_box(record.targets[0][0], view.frame),)
