"""Stage I with what the authors likely ran where the paper gives no value: verl's and DeepEyes'.

    python launch/select_resolution.py data/focus data/focus-answer --model Qwen2.5-VL-7B-Instruct
    python launch/train.py --config authors_stage1.py [--data.validation FOLDER]

The paper's parameters have verl's names, so verl's defaults, which DeepEyes keeps, are likely to be
the rest: see docs/paper.md for each, beside what stage1.py has and why. Five turns of 2,048 tokens
fit its context whole; a row of an update holds one such episode, or two of half its length.

Hardware: as stage1.py, with half the slots of twice the context. Before you pay, `launch/plan.py`
compiles it for your slice.
Expect: the paper's figures, as stage1.py; nobody has run either yet, so which comes closer is open.
For Qwen2.5-VL-3B add `--model.path Qwen2.5-VL-3B-Instruct`.
"""

from dataclasses import replace

from configs import stage1
from lfpc_jax.run.config import TrainConfig


def get_config() -> TrainConfig:
    return likely(stage1.get_config())


def likely(config: TrainConfig) -> TrainConfig:
    """A config of the paper's with verl's values for what the paper leaves open."""
    objective = replace(config.update.objective, dual_clip=3.0)
    return replace(
        config,
        rollout=replace(config.rollout, capacity=16384, slots=128),
        update=replace(
            config.update, objective=objective, deviation="unbiased", micro_batch_mean=2, rows=1
        ),
        optimizer=replace(config.optimizer, weight_decay=0.01),
        validation_temperature=0.0,
    )
