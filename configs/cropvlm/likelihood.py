"""CropVLM, the second stage with the other reward: how likely the target finds the right answer.

    lfpc train --config cropvlm/likelihood.py [--data.validation FOLDER]

As `cropvlm/accuracy.py`, but the reward is the target's log-likelihood of the right answer plus 1
for a valid box. The target must be on the same devices, since servers give no log-likelihood of a
text that they did not write. Sizes: `cropvlm/likelihood.py:3b`, `cropvlm/likelihood.py:micro`.

Hardware: as accuracy.py.

Expect: [paper] TextVQA at 1,024 px: boxes grow from 12.5 to 33.4 % of the image, recall rises from
51 to 85, and accuracy from 53.5 to 57.1.
"""

from configs.cropvlm import shared
from lfpc_jax.run.config import Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    rewards = Rewards(accuracy=0.0, format=0.0, tool=0.0, likelihood=1.0, valid=1.0)
    return shared.reinforced(size, rewards)
