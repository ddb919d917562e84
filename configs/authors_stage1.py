"""Stage I with the values that the authors likely used where the paper gives none.

    lfpc select data/focus data/focus-answer --model Qwen2.5-VL-7B-Instruct
    lfpc train --config authors_stage1.py [--data.validation FOLDER]

The paper's parameters have verl's names, so the other values are likely verl's defaults, which
DeepEyes keeps. docs/paper.md lists each of them beside stage1.py's, with the reasons. The context
holds five whole turns of 2,048 tokens. A row of an update holds one such episode, or two of half
its length. `authors_stage1.py:3b` trains Qwen2.5-VL-3B.

Hardware: as stage1.py, with half the slots of twice the context. Let `lfpc plan` compile it
for your slice first.

Expect: the paper's figures, as for stage1.py. Nobody has run either yet, so it is open which of the
two comes closer.
"""

from dataclasses import replace

from configs import common
from lfpc_jax.run.config import TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    common.published(size)
    return likely(common.stage1(size))


def likely(config: TrainConfig) -> TrainConfig:
    """The paper's config with verl's values for what the paper leaves open."""
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
