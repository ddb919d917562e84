"""CropVLM, the first stage: a crop network learns to write boxes from labels.

    lfpc label SET OUT --target Qwen2.5-VL-7B-Instruct      (see docs/cropvlm.md)
    lfpc train --config cropvlm/sft.py [--data.validation FOLDER]

`cropvlm/sft.py:3b` trains Qwen2.5-VL-3B, and `cropvlm/sft.py:micro` the small world's model.
`configs/cropvlm/shared.py` has the settings of all stages, and says where each is from.

Boxes are learned without a target. With one (`--target.path MODEL`), validations also measure its
accuracy with the proposed boxes and with blank crops.

Hardware:
- 7b: 4 GPUs of 80 GB, or let `lfpc plan` compile it for your slice.
- 3b: one GPU of 80 GB.
- micro: two CPU cores, some minutes.

Expect: an update/loss that falls within the first hundred steps, and end/proposed near 1 in
validations. [paper] TextVQA at 1,024 px: boxes of 12.5 % of the image, recall 51.
"""

from dataclasses import replace

from configs.cropvlm import shared
from lfpc_jax.cropvlm.demonstrating import labelled_box
from lfpc_jax.run.config import LoRA, Objective, OptimizerSettings, Rewards, TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    config = shared.supervised(size)
    micro = size == "micro"
    lora = LoRA(rank=128, alpha=256.0, vision=True, dropout=0.05)  # [code]
    return replace(
        config,
        stage="sft",
        model=replace(config.model, lora=None if micro else lora),
        rewards=Rewards(accuracy=0.0, format=0.0, tool=0.0, valid=1.0),
        update=replace(config.update, objective=Objective(kind="sft")),
        optimizer=OptimizerSettings(
            learning_rate=1e-3 if micro else 5e-5,  # [code]
            schedule="cosine",  # [code]
            warmup=round(0.03 * config.steps),  # [code] 3 %
        ),
        demonstrate=labelled_box,
    )
