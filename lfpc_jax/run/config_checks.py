"""Finds settings of a training run that cannot work, before anything is loaded or compiled.

`check` looks at the settings alone, `check_devices` at the devices that the run will use. Both
raise a ValueError that names the setting to change.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfpc_jax.checkpoint import store
from lfpc_jax.cropvlm.remote import check_settings
from lfpc_jax.distributed.mesh import check_slices, sides_of
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.preprocessor_config import has_processor
from lfpc_jax.rollout.sampling import COLDEST
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.run.config import TargetSettings, TrainConfig, updates_of
from lfpc_jax.run.models import here


def check(config: TrainConfig, *, processes: int = 1) -> None:
    """Raises for the first setting that cannot work."""
    r, u = config.rollout, config.update
    _check_numbers(config)
    _check_sources(config)
    _check_validation(config)
    if config.proposals:
        _check_proposals(config)
    else:
        _check_conversations(config)
    if config.target is not None:
        _check_target(config, config.target)
    if r.prompts % u.mini_batch:
        raise ValueError(
            f"rollout.prompts {r.prompts} is no multiple of update.mini_batch {u.mini_batch}; "
            "every update takes as many prompts"
        )
    if r.prompts < processes:
        raise ValueError(
            f"rollout.prompts {r.prompts} for {processes} processes, each of which needs one at "
            "least; take fewer processes or more prompts"
        )
    if config.stage == "grpo" and r.rollouts < 2:
        raise ValueError("rollout.rollouts is 1; advantages need a group of at least 2")
    if u.micro_batch_mean and (config.stage == "sft" or r.rollouts % u.micro_batch_mean):
        raise ValueError(
            f"update.micro_batch_mean {u.micro_batch_mean} with stage {config.stage} and "
            f"rollout.rollouts {r.rollouts}: it takes runs of a group's rollouts, whole ones; set "
            "it to a divisor of rollout.rollouts, or to 0 (in sft, where groups have one)"
        )
    if (u.aggregate == "constant") != bool(u.constant_length):
        raise ValueError(
            f"update.aggregate {u.aggregate} with update.constant_length {u.constant_length}: the "
            "length divides the loss of `constant` alone; set both, as --update.aggregate constant "
            f"--update.constant_length {r.turn_tokens}, or neither"
        )
    if config.stage == "sft" and config.demonstrate is None:
        raise ValueError("stage sft needs `demonstrate`, a function that writes the turns to learn")
    if (config.stage == "sft") != (u.objective.kind == "sft"):
        raise ValueError(
            f"stage {config.stage!r} with update.objective.kind {u.objective.kind!r}; "
            "set both to the same"
        )
    _check_sampling(config)
    _check_ahead(config)
    processor = _processor_of(Path(config.model.path))
    config.rollout_shapes(processor.window)  # these two raise for budgets that do not fit
    config.train_shapes(processor.window)
    _check_budgets("rollout", r.image_tokens, r.crop_tokens, processor)
    if config.optimizer.warmup >= updates_of(config):
        raise ValueError(
            f"optimizer.warmup of {config.optimizer.warmup} updates, where the run has "
            f"{updates_of(config)} in all; shorten it"
        )


def _check_numbers(config: TrainConfig) -> None:
    r, u = config.rollout, config.update
    from_one = {
        "steps": config.steps,
        "rollout.prompts": r.prompts,
        "rollout.rollouts": r.rollouts,
        "rollout.workers": r.workers,
        "rollout.tensor": r.tensor,
        "rollout.max_turns": r.max_turns,
        "rollout.turn_tokens": r.turn_tokens,
        "update.mini_batch": u.mini_batch,
        "update.epochs": u.epochs,
        "update.rows": u.rows,
        "health.patience": config.health.patience,
        "validate_every": config.validate_every,
        "checkpoint_every": config.checkpoint_every,
        "trajectories_every": config.trajectories_every,
        "keep_checkpoints": config.keep_checkpoints,
    }
    from_none = {
        "seed": config.seed,
        "rollout.episode_tokens": r.episode_tokens,
        "rollout.ahead": r.ahead,
        "data.validation_records": config.data.validation_records,
        "data.threads": config.data.threads,
        "update.constant_length": u.constant_length,
        "update.micro_batch_mean": u.micro_batch_mean,
        "update.row_tokens": u.row_tokens,
        "update.windows": u.windows,
        "update.places": u.places,
        "keep_best": config.keep_best,
    }
    for least, counts in enumerate((from_none, from_one)):
        for name, count in counts.items():
            if count < least:
                raise ValueError(f"{name} is {count}; it must be at least {least}")
    shares = {
        "without_tool": config.without_tool,
        "data.max_lost": config.data.max_lost,
        "health.most_invalid": config.health.most_invalid,
        "health.most_area": config.health.most_area,
        "health.most_skipped": config.health.most_skipped,
        "health.most_masked": config.health.most_masked,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; it is a share, from 0 to 1")
    if config.health.most_apart is not None and config.health.most_apart < 0:
        raise ValueError(
            f"health.most_apart is {config.health.most_apart}, a distance; give a positive number, "
            "inf to never stop, or none for what rounding explains"
        )
    for name, number in _floats(config):
        if math.isnan(number):
            raise ValueError(f"{name} is {number}; give a number")


def _floats(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers among the settings that are not integers, with their names."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _floats(item, f"{name}[{number}]")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _floats(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))


def _check_sources(config: TrainConfig) -> None:
    if not config.model.path:
        raise ValueError("model.path is empty; give the folder of a Qwen2.5-VL model")
    if not config.data.train:
        raise ValueError("data.train is empty; give at least one set, as --data.train FOLDER")
    names = [source.path for source in config.data.train]
    for source in config.data.train:
        if names.count(source.path) > 1:
            raise ValueError(
                f"data.train has {source.path!r} twice; name it once, with a higher weight"
            )
        if not 0 < source.weight < math.inf:
            raise ValueError(
                f"data.train: {source.path!r} has a weight of {source.weight}; give a positive "
                "number, or leave the set out"
            )


def _check_validation(config: TrainConfig) -> None:
    d = config.data
    if 0 < d.validation_records < len(d.validation):
        raise ValueError(
            f"data.validation_records {d.validation_records} for {len(d.validation)} sets, so some "
            "would never be asked; raise it, or leave sets out"
        )


def _check_sampling(config: TrainConfig) -> None:
    u, sampling = config.update, config.rules.sampling  # rules raise for what cannot be drawn from
    temperature = config.validation_temperature
    if temperature is not None and not (temperature == 0 or temperature >= COLDEST):
        raise ValueError(
            f"validation_temperature is {temperature}; take none (the rollouts'), 0 (greedy) or at "
            f"least {COLDEST}"
        )
    if config.stage != "grpo":
        return
    if sampling.temperature == 0:
        raise ValueError("rollout.temperature is 0: all rollouts would be the same; raise it")
    if sampling.truncates:
        raise ValueError(
            f"rollout.top_k {sampling.top_k} and top_p {sampling.top_p}: where some tokens are "
            "never drawn, the others gain probability wherever a beginning does better than its "
            "group, whatever they do for it, and lose it where it does worse; importance_cap does "
            "not correct that. Set top_k 0 and top_p 1; a lower rollout.temperature samples less "
            "widely, and updates follow it"
        )
    if u.old == "sampler" and u.objective.importance_cap is not None:
        raise ValueError(
            f"update.objective.importance_cap {u.objective.importance_cap} with update.old "
            "sampler: the ratio is to the sampler itself, so there is nothing to correct; "
            "set update.old trainer, or importance_cap none"
        )


def _check_ahead(config: TrainConfig) -> None:
    """Episodes that earlier weights began, and what updates make of them."""
    ahead, u = config.rollout.ahead, config.update
    if not ahead:
        if u.most_stale is not None:
            raise ValueError(
                f"update.most_stale {u.most_stale} with rollout.ahead 0: every token is drawn by "
                "the weights that the step begins with; set most_stale none, or ahead 1"
            )
        return
    if config.stage == "sft":
        raise ValueError(
            f"rollout.ahead {ahead} with stage sft, which samples nothing; set it to 0"
        )
    if config.proposals:
        raise ValueError(
            f"rollout.ahead {ahead} with rollout.dialogue box: the crop network and its target "
            "take turns on the devices, and neither can be left in the middle; set it to 0"
        )
    if u.old == "trainer" and u.objective.importance_cap is None:
        raise ValueError(
            f"rollout.ahead {ahead} with update.old trainer and no importance_cap: tokens that "
            "earlier weights drew would count as if the latest had drawn them; set "
            "--update.objective.importance_cap 2, or --update.old sampler"
        )
    if u.most_stale is not None and u.most_stale < 1:
        raise ValueError(
            f"update.most_stale is {u.most_stale}: it would drop every episode that began ahead; "
            "set it to at least 1 update, or rollout.ahead to 0"
        )


def _check_conversations(config: TrainConfig) -> None:
    """A run whose model answers by itself, or is taught to be a target."""
    if config.rollout.dialogue == "target":
        _check_taught_target(config)
    if config.target is not None:
        raise ValueError(
            f"target with rollout.dialogue {config.rollout.dialogue}, in which the model that is "
            "trained answers by itself; set --rollout.dialogue box to train it to propose boxes "
            "for the target, or leave the target out"
        )
    weights = {name: getattr(config.rewards, name) for name in ("likelihood", "valid")}
    for name, weight in weights.items():
        if weight:
            raise ValueError(
                f"rewards.{name} {weight} with rollout.dialogue {config.rollout.dialogue}: it "
                "rewards a crop network's box; set it to 0, or --rollout.dialogue box with a target"
            )


def _check_taught_target(config: TrainConfig) -> None:
    if config.stage != "sft":
        raise ValueError(
            f"stage {config.stage} with rollout.dialogue target: a target is taught by "
            "demonstrations, of a box and of its answer; set --stage sft with `demonstrate`"
        )
    if config.rollout.max_turns != 2:
        raise ValueError(
            f"rollout.max_turns is {config.rollout.max_turns} with rollout.dialogue target: the "
            "crop comes between a box and the answer; set --rollout.max_turns 2"
        )


def _check_proposals(config: TrainConfig) -> None:
    """A run whose model proposes a box for a target."""
    r, rewards = config.rollout, config.rewards
    expected = {
        "rollout.max_turns": (r.max_turns, 1, "a crop network has one turn"),
        "rollout.convention": (r.convention, "percent", "its boxes are whole hundredths"),
        "rewards.format": (rewards.format, 0, "its turn has no tags"),
        "rewards.tool": (rewards.tool, 0, "it has no tool; rewards.valid is for boxes"),
        "without_tool": (config.without_tool, 0, "it has no tool to go without"),
    }
    for name, (value, wanted, why) in expected.items():
        if value != wanted:
            raise ValueError(
                f"{name} is {value} with rollout.dialogue box: {why}; set --{name} {wanted}"
            )
    if config.target is not None:
        return
    needing = {
        "rewards.accuracy": rewards.accuracy,
        "rewards.likelihood": rewards.likelihood,
        "rewards.grounding_needs_answer": rewards.grounding_needs_answer,
    }
    for name, value in needing.items():
        if value:
            raise ValueError(
                f"{name} is {value}, but there is no target that could answer; give one, as "
                f"--target.path MODEL, or set --{name} {type(value)(0)}"
            )


def _check_target(config: TrainConfig, target: TargetSettings) -> None:
    if bool(target.path) == bool(target.url):
        raise ValueError(
            f"target.path {target.path!r} and target.url {target.url!r}: give the folder of a "
            "model that answers on this machine, or the address of a server, not both"
        )
    if bool(target.url) != bool(target.model):
        raise ValueError(
            f"target.url {target.url!r} and target.model {target.model!r}: a server is asked for a "
            "model by its name, and a folder has no other; give both or neither"
        )
    for name in ("image_tokens", "crop_tokens", "answer_tokens", "slots"):
        if (count := getattr(target, name)) < 1:
            raise ValueError(f"target.{name} is {count}; it must be at least 1")
    if config.rewards.likelihood and target.url:
        raise ValueError(
            f"rewards.likelihood {config.rewards.likelihood} with target.url {target.url}: servers "
            "give no log-likelihoods of a text that they did not write; take a local target, as "
            "--target.path MODEL, or reward accuracy"
        )
    if target.url:
        check_settings(target, flag="--")
    if target.presentation == "image" and config.stage == "grpo":
        raise ValueError(
            "target.presentation image: without a crop every box gets the same answer, and nothing "
            "can be learned from it; set --target.presentation both"
        )
    processor = _processor_of(Path(target.path))
    _check_budgets("target", target.image_tokens, target.crop_tokens, processor)


def _processor_of(model: Path) -> ImageProcessor:
    """The image processor of the model's folder or assets. If the model is not here, the one of the
    published models."""
    model = here(model)
    run = model.parent.parent if model.parent.name == "checkpoints" else model
    folders = run / "assets", store.assets_of(model), model
    folder = next((folder for folder in folders if has_processor(folder)), None)
    return ImageProcessor() if folder is None else ImageProcessor.from_folder(folder)


def _check_budgets(
    settings: str, image_tokens: int, crop_tokens: int, processor: ImageProcessor
) -> None:
    """Checks that the processor can keep to the budgets; its `min_pixels` may be above them."""
    try:
        name = f"{settings}.image_tokens {image_tokens}"
        processor.with_tokens(image_tokens)
        name = f"{settings}.crop_tokens {crop_tokens}"
        Zoom.within(crop_tokens, processor)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_devices(
    config: TrainConfig, *, devices: int, local: int, processes: int, slices: int = 1
) -> None:
    """Raises for the first setting that cannot work on `devices` devices of so many slices, of
    which each process has `local`."""
    m, r = config.mesh, config.rollout
    sides = sides_of(m.data, m.fsdp, m.tensor, devices)
    check_slices(sides, slices)
    shards = sides[0] * sides[1]
    if shards % processes:
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {sides} splits a batch into {shards} shards for "
            f"{processes} processes, each of which fills as many; choose a mesh.tensor that "
            f"divides the {local} devices of a process"
        )
    if local % r.tensor:
        raise ValueError(
            f"rollout.tensor {r.tensor} does not divide the {local} devices of a process, which "
            "rolls out on its own; choose a divisor"
        )
    copies = local // r.tensor
    slots = {"rollout.slots": r.slots}
    if config.target is not None and config.target.path:
        slots["target.slots"] = config.target.slots
    for name, count in slots.items():
        _check_slots(name, count, copies, local, r.tensor)


def _check_slots(name: str, slots: int, copies: int, local: int, tensor: int) -> None:
    if slots % copies:
        least = slots // copies * copies
        raise ValueError(
            f"{name} {slots} is no multiple of the {copies} copies of the model that a "
            f"process has ({local} devices, rollout.tensor {tensor}), so the cache could not be "
            f"split; set it to {' or '.join(str(n) for n in (least, least + copies) if n)}"
        )
