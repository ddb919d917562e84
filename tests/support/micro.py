"""A training run small enough for a test: the small model of tests/rollout, four records."""

import os
from dataclasses import replace
from pathlib import Path

from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.run.config import (
    DataSettings,
    ModelSettings,
    RolloutSettings,
    Source,
    TrainConfig,
    UpdateSettings,
)


def get_config() -> TrainConfig:
    """Where the model and the data lie is in the environment, as a test sets it."""
    folder = Path(os.environ["MICRO"])
    return TrainConfig(
        steps=3,
        model=ModelSettings(path=str(folder / "hf"), remat="none"),
        data=DataSettings(
            train=(Source(str(folder / "set")),),
            validation=(Source(str(folder / "set")),),
            validation_records=4,
            threads=1,
        ),
        rollout=RolloutSettings(
            prompts=4,
            rollouts=4,
            slots=8,
            chunk=8,
            capacity=320,
            image_tokens=24,
            crop_tokens=16,
            prompt_text=(48,),
            observation_text=48,
            extend_rows=1,
            episode_tokens=60,
            workers=1,
        ),
        update=UpdateSettings(mini_batch=2, rows=1),
        optimizer=OptimizerSettings(learning_rate=1e-2, eps=1e-3),
        validate_every=2,
        checkpoint_every=1,
        trajectories_every=2,
    )


def with_one_update() -> TrainConfig:
    config = get_config()
    return replace(config, update=replace(config.update, mini_batch=4))
