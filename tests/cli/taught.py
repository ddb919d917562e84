"""Supervised fine-tuning on the same four records: half look first, half answer without a tool."""

from dataclasses import replace

from lfpc_jax.grpo.objective import Objective
from lfpc_jax.run.config import TrainConfig
from support import micro

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 60, 90]}}'


def get_config() -> TrainConfig:
    config = micro.with_one_update()
    return replace(
        config,
        stage="sft",
        steps=6,
        data=replace(config.data, validation=()),
        rollout=replace(config.rollout, convention="percent", capacity=1280, episode_tokens=200),
        update=replace(config.update, objective=Objective(kind="sft")),
        demonstrate=demonstrated,
        without_tool=1.0,
        validate_every=100,
    )


def demonstrated(record, view, rng) -> tuple[str, ...]:
    answer = f"<answer>{record.answer}</answer>"
    looks = int(record.id[-1]) % 2
    return (CALL + "</tool_call>", answer) if looks else (answer,)
