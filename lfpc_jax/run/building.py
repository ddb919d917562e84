"""The parts of a run, built from its settings: for training, for a session, and for replays."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.cropvlm.local import LocalTarget, Needs
from lfpc_jax.cropvlm.pair import Pair
from lfpc_jax.cropvlm.remote import RemoteTarget
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Showing
from lfpc_jax.cropvlm.target import Target
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.grpo.optimizer import make_optimizer
from lfpc_jax.grpo.remat import Resolved, Room, resolve
from lfpc_jax.grpo.updater import Updater
from lfpc_jax.model import attention, attention_check, attention_cudnn, parameters, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rewards.judge import Bar, no_bar
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.state import empty_state
from lfpc_jax.rollout.vocabulary import allowed_ids
from lfpc_jax.run import progress
from lfpc_jax.run.config import Rewards, TrainConfig, updates_of
from lfpc_jax.run.dialogues import dialogue_as
from lfpc_jax.run.models import asking_of, load_model

log = logging.getLogger(__name__)


def dialogue_of(config: TrainConfig, assets: Path) -> Dialogue:
    """The dialogue with the model that is trained, within the run's budgets."""
    return dialogue_as(config.asking, assets)


def engine_of(
    config: TrainConfig,
    cfg: ModelConfig,
    dialogue: Dialogue,
    mesh: Mesh,
    target: Target | None = None,
) -> Engine | Pair:
    """A rollout engine on this process's mesh, with the target that answers with its boxes if there
    is one. It has no weights yet. The target is asked for what the rewards need."""
    engine = Engine(
        replace(cfg, remat="none"),
        dialogue,
        config.rollout_shapes(cfg.vision.window, mesh.shape["data"]),
        config.rules,
        mesh=mesh,
        workers=config.rollout.workers,
    )
    if target is None:
        return engine
    rewards = config.rewards
    return Pair(
        engine,
        target,
        answers=asks_for_answers(rewards),
        likelihoods=bool(rewards.likelihood),
    )


def asks_for_answers(rewards: Rewards) -> bool:
    """Whether the rewards of a crop network's boxes need the target's answers."""
    return bool(rewards.accuracy or rewards.grounding_needs_answer or rewards.own)


def target_of(config: TrainConfig, mesh: Mesh, bar: Bar = no_bar) -> Target | None:
    """The run's target, or None if it has none. A local one has room for every question that the
    crop network's prompt has room for."""
    if config.target is None:
        return None
    most = max(config.rollout.prompt_text)
    return open_target(config.target, mesh, lambda showing: Needs.up_to(showing, most), bar)


def open_target(
    settings: TargetSettings, mesh: Mesh, needs: Callable[[Showing], Needs], bar: Bar = no_bar
) -> Target:
    """The target that the settings name. A local one is on this process's mesh, with its weights,
    and `needs` says for which questions it has room. A server is asked whether it answers. Raises
    ValueError for a crop network, which answers nothing."""
    if settings.url:
        remote = RemoteTarget(settings, bar)
        with progress.waiting(f"asking the target, {remote}"):
            remote.check()
        return remote
    path = Path(settings.path)
    dtype = None if settings.dtype == "auto" else settings.dtype
    asking = asking_of(path) or Asking()
    if asking.dialogue == "box":
        raise ValueError(
            f"{path}: is a crop network: it proposes boxes and answers no question; name the model "
            "that is to answer as the target"
        )
    return LocalTarget.of(
        load_model(path, dtype=dtype, mesh=mesh),
        settings,
        needs=needs,
        mesh=mesh,
        convention=asking.convention,
    )


def learner_of(
    config: TrainConfig,
    cfg: ModelConfig,
    dialogue: Dialogue,
    mesh: Mesh,
    target: Target | None = None,
) -> Learner:
    """`target` is on the same devices. What updates save for their backward pass is decided here,
    from the memory of this process's first device."""
    room = room_for(
        config,
        cfg,
        mesh.shape,
        platform=mesh.devices.flat[0].platform,
        memory=memory_of(jax.local_devices()[0]),
        target_bytes=target.held_bytes if isinstance(target, LocalTarget) else 0,
        copies=jax.local_device_count() // config.rollout.tensor,
    )
    chosen = remat_of(config, cfg, room)
    log.info("updates save: %s", chosen)
    attention_check.check(cfg, "updates", mesh)
    return Learner(
        chosen.of(cfg),
        make_optimizer(config.optimizer, updates_of(config)),
        objective=config.update.objective,
        trainable=config.trainable,
        allowed=allowed_ids(dialogue.tokenizer, cfg.text.vocab),
        mesh=mesh,
        temperature=config.policy_temperature,
        unstacked=tuning().unstacked,
        seed=config.seed,
        moments_on_host=config.moments_on_host,
    )


def room_for(
    config: TrainConfig,
    cfg: ModelConfig,
    sides: Mapping[str, int],
    *,
    platform: str,
    memory: int | None,
    target_bytes: int = 0,
    copies: int = 1,
) -> Room:
    """What updates have room for on a mesh with these sides, on devices with so much memory, of
    which a process has `copies` groups for rollouts. Episodes are assumed to look at one crop
    each. The GPU is the one that is compiled for (`attention_cudnn`)."""
    shapes = config.train_shapes(cfg.vision.window)
    crops = config.rollout.rollouts if config.rollout.max_turns > 1 else 0
    pictures = config.update.mini_batch * (1 + crops) / (sides["data"] * sides["fsdp"])
    reference = 0
    if config.update.objective.kl:
        trained, _ = parameters.specs(cfg, config.trainable)  # what is frozen is the state's
        copy = jax.tree.leaves(spec.abstract_of(trained, cfg.dtype))
        size = sum(x.size * x.dtype.itemsize for x in copy)
        reference = size // (sides["fsdp"] * sides["tensor"])
    packed = attention.select(
        cfg.kernel,
        platform=platform,
        length=shapes.row_tokens,
        dtype=cfg.dtype,
        continued=shapes.shared,
    )
    return Room(
        memory=memory,
        beside=reference + target_bytes + unfinished_bytes(config, cfg, copies),
        sides=sides,
        pictures=-(-round(pictures) // (shapes.windows // shapes.span)),
        platform=platform,
        moments_on_host=config.moments_on_host,
        gathers=packed.kernel == "cudnn" and not attention_cudnn.in_place(),
    )


def unfinished_bytes(config: TrainConfig, cfg: ModelConfig, copies: int) -> int:
    """What a chip holds for unfinished episodes during updates: the whole cache, if steps begin
    ahead. `copies` groups of a process's chips hold a copy of the model for rollouts each."""
    if not config.rollout.ahead:
        return 0
    shapes, tensor = config.rollout_shapes(cfg.vision.window, copies), config.rollout.tensor
    state = jax.eval_shape(partial(empty_state, cfg, shapes, unstacked=False))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return size // copies // (tensor if cfg.text.kv_heads % tensor == 0 else 1)


def remat_of(config: TrainConfig, cfg: ModelConfig, room: Room) -> Resolved:
    """What the settings `model.remat` and `model.tower_remat` mean where there is so much room."""
    shapes, model = config.train_shapes(cfg.vision.window), config.model
    return resolve(cfg, shapes, config.trainable, room, model.remat, model.tower_remat)


def memory_of(device: jax.Device) -> int | None:
    """The bytes that programs may use of a device's memory; None if the device does not say."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")


def updater_of(
    config: TrainConfig, learner: Learner, dialogue: Dialogue, reference: Tree | None = None
) -> Updater:
    """`reference` are the weights that a KL term measures from."""
    cfg = learner.cfg
    return Updater(
        learner,
        config.update,
        config.train_shapes(cfg.vision.window),
        dialogue.processor,
        reference,
        config.most_apart(cfg.dtype),
    )


def publisher_of(config: TrainConfig, cfg: ModelConfig, train: Mesh, rollout: Mesh) -> Publisher:
    """From the mesh of the updates to the rollouts' mesh of all processes."""
    return Publisher(partial(parameters.whole, cfg, config.trainable), train, rollout)
