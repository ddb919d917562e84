"""What the configs of crop networks share at each size, with where a value is from.

[paper]   CropVLM (arXiv 2511.19820)
[code]    its authors' repository
[ours]    neither says; chosen here

`7b` and `3b` are sizes of Qwen2.5-VL, for crop network and target alike; `--target.path MODEL`
takes another. (The authors' crop network and target are SmolVLM.) `micro` is the small world, where
the crop network begins from configs/micro/boxes and configs/micro/target answers.
"""

from dataclasses import replace

from configs import common
from lfpc_jax.run.config import (
    DataSettings,
    ModelSettings,
    Objective,
    OptimizerSettings,
    Rewards,
    RolloutSettings,
    Source,
    TargetSettings,
    TrainConfig,
    UpdateSettings,
)

SETS = {
    "text_vqa": ("data/text_vqa/TextVQA_0.5.1_train.json:data/text_vqa/train_images", 34.6),
    "doc_vqa": ("data/doc_vqa/train_v1.0_withQT.json", 39.5),
    "info_vqa": ("data/info_vqa/infographicsVQA_train_v1.0.json:data/info_vqa/images", 23.9),
    "st_vqa": ("data/st_vqa/train_task_3.json:data/st_vqa", 26.1),
}
"""[paper] The training sets, and thousands of questions in each. Either stage has half of them."""

STEPS = 62_000 // 16
"""[code] One epoch of one half (62k questions [paper]) in batches of 16."""

DEMO = "runs/demo-cropvlm"
"""The folder of the small world's data and runs."""


def labelled(size: str) -> tuple[Source, ...]:
    """The first half of every set with the boxes that `lfpc label` gave it."""
    if size == common.MICRO:
        return (Source(f"{DEMO}/data/labels"),)
    return tuple(Source(f"data/labels/{name}", weight=share) for name, (_, share) in SETS.items())


def questions(size: str) -> tuple[Source, ...]:
    """The second half of every set."""
    if size == common.MICRO:
        return (Source(f"{DEMO}/data/questions"),)
    return tuple(
        Source(f"{name}%2/2:{paths}", weight=share) for name, (paths, share) in SETS.items()
    )


def supervised(size: str) -> TrainConfig:
    """A crop network that imitates labels, from the published model."""
    config = _base(size)
    return replace(config, data=replace(config.data, train=labelled(size)))


def reinforced(size: str, rewards: Rewards) -> TrainConfig:
    """A crop network that a target's answers reward, from the supervised one."""
    micro = size == common.MICRO
    config = _base(size)
    settings = TargetSettings(
        path="configs/micro/target" if micro else common.published(size),
        # [code] 512 px whatever the crop network sees: 18 x 18 tokens of 28 px
        image_tokens=16 if micro else 324,
        crop_tokens=12 if micro else 324,  # [code] as the image
        answer_tokens=16 if micro else 32,  # [code] as the crop network's turn
        slots=64 if micro else 128,
    )
    return replace(
        config,
        data=replace(config.data, train=questions(size)),
        model=replace(config.model, path=run_of("sft", size)),
        target=settings,
        rewards=rewards,
        update=replace(
            config.update,
            # [code] Dr. GRPO: no division by the deviation, a constant length as the divisor
            deviation="none",
            aggregate="constant",
            constant_length=config.rollout.turn_tokens,
            objective=Objective(kl=0.01),  # [code]
        ),
        optimizer=OptimizerSettings(
            learning_rate=3e-4 if micro else 5e-6,  # [code]
            schedule="cosine",  # [code]
            warmup=0 if micro else round(0.03 * config.steps),  # [code] 3 %
            clip_norm=0.1,  # [code]
        ),
    )


def run_of(arm: str, size: str) -> str:
    """The folder that an arm's run has by default."""
    if size == common.MICRO:
        return f"{DEMO}/{arm}-0"
    return f"runs/{arm}" if size == "7b" else f"runs/{arm}_{size}"


def _base(size: str) -> TrainConfig:
    if size == common.MICRO:
        return _micro()
    return TrainConfig(
        steps=STEPS,
        model=ModelSettings(path=common.published(size, also=(common.MICRO,))),
        rollout=RolloutSettings(
            dialogue="box",
            convention="percent",
            prompts=16,  # [code]
            rollouts=6,  # [code]
            slots=96,
            image_tokens=1296,  # [paper] 1,024 px: 36 x 36 tokens of 28 px
            crop_tokens=324,  # the target's
            prompt_text=(64, 128, 256),
            capacity=1664,
            max_turns=1,
            turn_tokens=32,  # [code]
            temperature=0.8,  # [code]
        ),
        update=UpdateSettings(mini_batch=16, rows=2),  # [code] on-policy: one update a step
        validation_temperature=0.0,  # [ours]
        validate_every=100,
        checkpoint_every=100,
        trajectories_every=100,
    )


def _micro() -> TrainConfig:
    return TrainConfig(
        steps=60,
        model=ModelSettings(path="configs/micro/boxes", remat="none"),
        data=DataSettings(
            validation=(Source(f"{DEMO}/data/validation"),), validation_records=64, threads=2
        ),
        rollout=RolloutSettings(
            dialogue="box",
            convention="percent",
            prompts=16,
            rollouts=8,
            slots=64,
            chunk=8,
            capacity=144,
            image_tokens=16,
            crop_tokens=12,
            prompt_text=(96,),
            prefill_rows=16,
            extend_rows=16,
            max_turns=1,
            turn_tokens=24,
            temperature=1.0,
            workers=1,
        ),
        update=UpdateSettings(mini_batch=16, rows=1, row_tokens=384, windows=4),
        validation_temperature=0.0,
        validate_every=20,
        checkpoint_every=20,
        trajectories_every=20,
    )
