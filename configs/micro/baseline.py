"""The small world without the information gap: what Stage I is compared with.

    python launch/train.py --config micro/baseline.py

`launch/demo.py` makes data/world and data/blurred in runs/demo. The other
arms begin here: they differ in data, starting point and reward, and what goes on from Stage I in
steps and rate.

Hardware: two CPU cores, some minutes. Expect: it calls the tool always, points
badly, and answers sharp images at once: noise in its crops takes little (docs/demo.md).
"""

from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.grpo.updater import UpdateSettings
from lfpc_jax.run.config import (
    DataSettings,
    ModelSettings,
    RolloutSettings,
    Source,
    TrainConfig,
)

FOLDER = "runs/demo"


def get_config() -> TrainConfig:
    return TrainConfig(
        steps=36,
        model=ModelSettings(path="configs/micro/warm", remat="none"),
        data=DataSettings(
            train=(Source(f"{FOLDER}/data/world"),),
            validation=(Source(f"{FOLDER}/data/blurred"),),
            validation_records=64,
            threads=2,
        ),
        rollout=RolloutSettings(
            prompts=16,
            rollouts=8,
            slots=64,
            chunk=8,
            capacity=320,
            image_tokens=64,
            crop_tokens=12,
            convention="percent",
            prompt_text=(48,),
            observation_text=16,
            prefill_rows=8,
            extend_rows=16,
            max_turns=4,
            turn_tokens=128,
            episode_tokens=128,
            workers=1,
        ),
        update=UpdateSettings(mini_batch=16, rows=1, row_tokens=384, windows=48),
        optimizer=OptimizerSettings(learning_rate=3e-4, warmup=5),
        validate_every=12,
        checkpoint_every=12,
        trajectories_every=12,
    )
