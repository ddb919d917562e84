"""What the arms share at each size. The size stands behind a colon: `--config stage1.py:3b`.

`7b` and `3b` are the paper's settings with that size of Qwen2.5-VL; without a size, `7b` is meant.
`3b-24gb` and others with a card's memory behind a dash are for one GPU (docs/training.md).
`micro` is the small world of `lfpc demo`, which trains on two CPU cores. What the configs of
crop networks share is in `cropvlm/shared.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lfpc_jax.run.config import (
    DataSettings,
    LoRA,
    ModelSettings,
    OptimizerSettings,
    Rewards,
    RolloutSettings,
    Source,
    TrainConfig,
    UpdateSettings,
)

MICRO = "micro"
PUBLISHED = {"7b": "Qwen2.5-VL-7B-Instruct", "3b": "Qwen2.5-VL-3B-Instruct"}
ONE_CARD: Mapping[str, tuple[int, LoRA | None]] = {
    "3b-24gb": (32, LoRA()),
    "7b-24gb": (16, LoRA(base="int8")),
    "3b-48gb": (64, LoRA()),
    "7b-48gb": (32, LoRA()),
    "3b-80gb": (64, None),
    "7b-80gb": (64, LoRA()),
    "7b-141gb": (64, None),
}
"""For a model on one GPU with so much memory: the episodes that it samples at once, and the LoRA
that is trained. Without one all parameters are, and Adam's moments are in the host's memory."""
DEMO = "runs/demo"
"""The folder in which `lfpc demo` puts its data and runs."""
_DEMO_SETS: Mapping[str, str] = {"none": "world", "boxes": "answer"}
"""Sets of the demo that are named otherwise than their strategy; all of its records have boxes."""


def stage1(size: str, sets: Sequence[str] = ("answer",)) -> TrainConfig:
    """Stage I from the first model. A set is named by the strategy that selected its image sizes,
    or is `boxes`, the records with hand-drawn boxes."""
    if size == MICRO:
        config = _micro()
        paths = [f"{DEMO}/data/{_DEMO_SETS.get(name, name)}" for name in sets]
    else:
        config = _paper(size)
        paths = ["data/boxes" if name == "boxes" else f"data/focus-{name}" for name in sets]
    train = tuple(Source(path) for path in dict.fromkeys(paths))
    return replace(config, data=replace(config.data, train=train))


def stage2(size: str, rewards: Rewards) -> TrainConfig:
    """Stage II begins with the last checkpoint of Stage I, with a new optimizer and a lower rate.
    In the small world, training at Stage I's rate collapsed after 25 more steps (docs/log.md)."""
    config = replace(stage1(size, ("boxes",)), rewards=rewards)
    model = replace(config.model, path=run_of("stage1", size))
    rate = 2e-4 if size == MICRO else config.optimizer.learning_rate / 2
    optimizer = replace(config.optimizer, learning_rate=rate)
    steps = 30 if size == MICRO else config.steps
    return replace(config, steps=steps, model=model, optimizer=optimizer)


def run_of(arm: str, size: str) -> str:
    """The folder that an arm's run has by default; in the demo, that of its first seed."""
    if size == MICRO:
        return f"{DEMO}/{arm}-0"
    return f"runs/{arm}" if size == "7b" else f"runs/{arm}_{size}"


def _paper(size: str) -> TrainConfig:
    if size in ONE_CARD:
        return _on_one_card(size)
    return TrainConfig(
        steps=80,
        model=ModelSettings(path=published(size, also=(*ONE_CARD, MICRO))),
        rollout=RolloutSettings(
            prompts=256, rollouts=16, slots=256, max_turns=5, turn_tokens=2048, capacity=8192
        ),
        update=UpdateSettings(mini_batch=32, rows=2),
        optimizer=OptimizerSettings(learning_rate=1e-6),
    )


def _on_one_card(size: str) -> TrainConfig:
    """The paper's settings with an eighth of its prompts a step, and a quarter of them an update. A
    LoRA's factors need ten times the rate of weights."""
    slots, lora = ONE_CARD[size]
    config = _paper(size.partition("-")[0])
    optimizer = (
        OptimizerSettings(learning_rate=1e-5) if lora else replace(config.optimizer, moments="host")
    )
    return replace(
        config,
        steps=160,
        model=replace(config.model, lora=lora),
        rollout=replace(config.rollout, prompts=32, slots=slots),
        update=replace(config.update, mini_batch=8, rows=1),
        optimizer=optimizer,
    )


def _micro() -> TrainConfig:
    return TrainConfig(
        steps=36,
        model=ModelSettings(path="configs/micro/warm", remat="none"),
        data=DataSettings(
            validation=(Source(f"{DEMO}/data/blurred"),), validation_records=64, threads=2
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


def published(size: str, also: Sequence[str] = ()) -> str:
    """The Hugging Face folder of a size; raises ValueError for any other, naming those known."""
    if size not in PUBLISHED:
        raise ValueError(f"unknown size {size!r}; known are {', '.join((*PUBLISHED, *also))}")
    return PUBLISHED[size]
