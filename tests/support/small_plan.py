"""A run of a model of 60,000 parameters, as a folder with nothing but its config."""

from pathlib import Path

from support import reference

CONFIG = """
from lfpc_jax.run.config import DataSettings, ModelSettings, RolloutSettings, Source, TrainConfig
from lfpc_jax.grpo.updater import UpdateSettings


def get_config():
    return TrainConfig(
        steps=10,
        model=ModelSettings(path="{model}"),
        data=DataSettings(train=(Source("nothing"),)),
        rollout=RolloutSettings(
            prompts=8, rollouts=4, slots=16, chunk=8, capacity=256, image_tokens=64,
            crop_tokens=64, prompt_text=(128,), max_turns=2, turn_tokens=64,
        ),
        update=UpdateSettings(mini_batch=4, rows=1),
    )
"""


TARGET = """

def with_target(config):
    from dataclasses import replace

    from lfpc_jax.run.config import Rewards, TargetSettings

    return replace(
        config,
        rollout=replace(config.rollout, dialogue="box", convention="percent", max_turns=1),
        rewards=Rewards(accuracy=1.0, format=0.0, tool=0.0, valid=1.0),
        target=TargetSettings(
            path=config.model.path, image_tokens=64, crop_tokens=64, answer_tokens=8, slots=16
        ),
    )


plain = get_config


def get_config():
    return with_target(plain())
"""


def config_file(folder: Path, *, target: bool = False) -> Path:
    """With a target, the run trains a crop network, and the target is as large."""
    model = folder / "model"
    fields = reference.random_config(
        3, tied=False, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, num_hidden_layers=3,
    )  # fmt: skip
    fields.save_pretrained(model)
    file = folder / ("with_target.py" if target else "small.py")
    file.write_text(CONFIG.format(model=model) + TARGET * target)
    return file
