"""CropVLM, the second stage: boxes are rewarded with the accuracy of a frozen target's answers.

    lfpc train --config cropvlm/accuracy.py [--data.validation FOLDER]

It begins with the last checkpoint of `cropvlm/sft.py`. The reward is the accuracy metric of each
set (VQA accuracy for TextVQA, else ANLS) plus 1 for a valid box. `cropvlm/accuracy.py:3b` and
`cropvlm/accuracy.py:micro` are the sizes of sft.py. A target on a server is
`--target.path "" --target.url URL --target.model NAME --target.cache FOLDER`.

Hardware: as sft.py, with the target's weights beside the crop network's; see `lfpc plan`.

Expect: [paper] TextVQA at 1,024 px: boxes grow from 12.5 to 16.8 % of the image, recall rises from
51 to 72, and accuracy from 53.5 to 56.1.
"""

from configs.cropvlm import shared
from lfpc_jax.run.config import Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return shared.reinforced(size, Rewards(accuracy=1.0, format=0.0, tool=0.0, valid=1.0))
