"""A training run as it would be on a slice: its model, meshes and shapes, and what each chip
holds."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import store
from lfpc_jax.distributed.mesh import check_rows, make_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Place, lies_so
from lfpc_jax.grpo.packing import Item
from lfpc_jax.grpo.remat import Resolved, Room
from lfpc_jax.grpo.updater import recomputes_logprobs
from lfpc_jax.model import config as model_config
from lfpc_jax.model import parameters, spec
from lfpc_jax.model.attention_cudnn import compiled_for
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.tuning import tuning
from lfpc_jax.plan.counts import CacheBytes
from lfpc_jax.plan.episodes import (
    PackedMiniBatch,
    PlannedEpisode,
    layout_of,
    planned_episode,
    planned_items,
)
from lfpc_jax.plan.programs import bytes_per_chip
from lfpc_jax.plan.rollout import all_hosts
from lfpc_jax.plan.slices import Slice
from lfpc_jax.plan.target import PlannedTarget
from lfpc_jax.plan.update import abstract_state
from lfpc_jax.plan.work import Load, reshard_load, rollout_loads, update_loads
from lfpc_jax.run.building import asks_for_answers, remat_of, room_for, unfinished_bytes
from lfpc_jax.run.config import TargetSettings, TrainConfig
from lfpc_jax.run.config_checks import check, check_devices
from lfpc_jax.run.folder import run_of
from lfpc_jax.run.models import here
from lfpc_jax.shapes import RolloutShapes, TrainShapes


def check_there(config: TrainConfig, where: Slice) -> None:
    """Raises ValueError if `lfpc train` would refuse to start on the slice, with one process per
    host."""
    devices, local, hosts = len(where.devices), where.chips_a_host, where.hosts
    check(config, processes=hosts)
    check_devices(config, devices=devices, local=local, processes=hosts, slices=where.slices)


def model_of(config: TrainConfig, platform: str | None = None) -> ModelConfig:
    """The configuration of a run's model. `platform` decides what a dtype of "auto" is."""
    return _at("model.path", config.model.path, config.model.dtype, platform)


def target_model_of(settings: TargetSettings, platform: str | None = None) -> ModelConfig:
    """The configuration of a local target."""
    return _at("target.path", settings.path, settings.dtype, platform)


def _at(setting: str, name: str, dtype: str, platform: str | None) -> ModelConfig:
    """If the folder is not here, the configuration of the published model of the size in its
    name."""
    path = here(Path(name))
    dtype = tuning(platform).dtype if dtype == "auto" else dtype
    if not path.exists():
        size = re.search(r"\d+b", path.name.lower())
        if size is None:
            raise ValueError(
                f"{setting} {path} is not here, and its name says no size to plan with; a run "
                f"that is still to come is planned by its first model, as --{setting} "
                "Qwen2.5-VL-7B-Instruct"
            )
        return model_config.published(size[0], dtype=dtype)
    if run := run_of(path):
        folder = run.assets
    else:
        folder = store.open_store(path).assets if store.is_store(path) else path
    return model_config.from_folder(folder, dtype=dtype)


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A config on a slice, with what its programs are compiled from. `episode` is assumed for
    rollouts and, without `items` of a mini-batch that are known, for updates."""

    config: TrainConfig
    slice: Slice
    cfg: ModelConfig
    train_mesh: Mesh
    rollout_mesh: Mesh
    train_shapes: TrainShapes
    rollout_shapes: RolloutShapes
    remat: Resolved
    remat_room: Room
    episode: PlannedEpisode
    items: tuple[Item, ...] = ()
    target: PlannedTarget | None = None

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        where: Slice,
        episode: PlannedEpisode | None = None,
        items: Sequence[Item] = (),
    ) -> "PlannedRun":
        """Plans a config for a slice. Every host rolls out alone. But slices without free routing
        are compiled for as a whole, so `rollout_shapes` are those of all hosts side by side. Each
        chip needs as much."""
        kernel = config.model.kernel
        cfg = replace(
            model_of(config, where.platform),
            kernel=tuning(where.platform).kernel if kernel == "auto" else kernel,
        )
        sides, hosts = config.mesh, where.hosts
        train_mesh = make_mesh(sides.data, sides.fsdp, sides.tensor, devices=where.devices)
        check_rows(train_mesh)
        rollouts = rollout_mesh(config.rollout.tensor, devices=where.devices)
        copies = max(1, rollouts.shape["data"] // hosts)
        host = config.rollout_shapes(cfg.vision.window, copies)
        train_shapes = config.train_shapes(cfg.vision.window)
        target = _target(config, where, rollouts)
        with compiled_for(where.capability):
            room = room_for(
                config,
                cfg,
                train_mesh.shape,
                platform=where.platform,
                memory=where.chip.hbm_bytes,
                target_bytes=target.held_bytes if target else 0,
                copies=copies,
            )
        remat = remat_of(config, cfg, room)
        return cls(
            config,
            where,
            remat.of(cfg),
            train_mesh,
            rollouts,
            train_shapes,
            all_hosts(host, hosts),
            remat,
            room,
            episode or planned_episode(config, None, None),
            tuple(items),
            target,
        )

    # ------------------------------------------------------------ how many of what

    @property
    def shards(self) -> int:
        """How many groups of chips each take a part of a micro-batch's rows."""
        return self.train_mesh.shape["data"] * self.train_mesh.shape["fsdp"]

    @property
    def episodes(self) -> int:
        """The episodes of one mini-batch."""
        return self.config.update.mini_batch * self.config.rollout.rollouts

    @property
    def mini_batches(self) -> int:
        """The mini-batches of one step."""
        return self.config.rollout.prompts // self.config.update.mini_batch

    @property
    def processes(self) -> int:
        """How many processes pack a part of a mini-batch each."""
        return math.gcd(self.slice.hosts, self.shards)

    @property
    def local_shards(self) -> int:
        """How many shards a process fills."""
        return self.shards // self.processes

    @property
    def _plain(self) -> ModelConfig:
        """The model, of which layouts do not depend on what is saved."""
        return replace(self.cfg, remat="none", tower_remat=None)

    @cached_property
    def mini_batch(self) -> tuple[Item, ...]:
        """A process's share of a mini-batch."""
        groups = -(-self.config.update.mini_batch // self.processes)
        if self.items:
            names = [*dict.fromkeys(item.trajectory.record for item in self.items)][:groups]
            return tuple(item for item in self.items if item.trajectory.record in names)
        rollouts = self.config.rollout.rollouts
        shapes = self.rollout_shapes
        return planned_items(self.episode, self._plain, shapes, groups=groups, rollouts=rollouts)

    @cached_property
    def layout(self) -> PackedMiniBatch:
        """What the packer makes of it."""
        return layout_of(
            self.mini_batch,
            self.train_shapes,
            self._plain,
            shards=self.local_shards,
            platform=self.slice.platform,
            tensor=self.train_mesh.shape["tensor"],
        )

    @property
    def recomputes_logprobs(self) -> bool:
        """Whether the trainer's log-probabilities are computed before a step's updates."""
        return recomputes_logprobs(self.config.update, self.mini_batches)

    @property
    def scored(self) -> int:
        """How many mini-batches of a step are scored with the policy before their updates. The
        first is not, but with LoRA's dropout."""
        lora = self.config.model.lora
        first = 0 if lora is not None and lora.dropout else 1
        return (self.mini_batches - first) * self.recomputes_logprobs

    @property
    def references(self) -> int:
        """How many mini-batches of a step are scored with a reference."""
        return self.mini_batches * (self.config.update.objective.kl > 0)

    # ------------------------------------------------------------ what a chip holds

    @property
    def place(self) -> Place:
        """All parameters in the compute dtype, placed on a mesh."""
        return partial(parameters.whole, self.cfg, self.config.trainable)

    @property
    def state_bytes(self) -> int:
        """The bytes of parameters and moments, which each chip holds at all times."""
        config = self.config
        state = abstract_state(
            self.cfg, self.train_mesh, config.trainable, moments_on_host=config.moments_on_host
        )
        return bytes_per_chip(state)

    @property
    def trained_copy_bytes(self) -> int:
        """The bytes of a copy of what is trained, in the dtype that is computed with."""
        return bytes_per_chip(self._part(0, self.train_mesh))

    @property
    def reference_bytes(self) -> int:
        """The bytes that each chip holds at all times of the parameters that a KL term stays near.
        What is frozen is the state's."""
        return self.trained_copy_bytes if self.config.update.objective.kl else 0

    @property
    def shared_bytes(self) -> int:
        """The bytes of what is frozen that updates and rollouts hold together on each chip."""
        trees = self._part(1, self.train_mesh), self._part(1, self.rollout_mesh)
        pairs = zip(*map(jax.tree.leaves, trees), strict=True)
        return bytes_per_chip([after for before, after in pairs if lies_so(before, after)])

    def _part(self, number: int, mesh: Mesh) -> Tree:
        """The trained parameters (0) or the frozen ones (1) in the compute dtype, on a mesh."""
        parts = parameters.specs(self.cfg, self.config.trainable)
        return spec.abstract_of(parts[number], self.cfg.dtype, mesh)

    @property
    def target_bytes(self) -> int:
        """The bytes of a local target's weights, which each chip holds at all times."""
        return 0 if self.target is None else self.target.held_bytes

    @property
    def unfinished_bytes(self) -> int:
        """The bytes of the cache that each chip holds during updates, if steps begin ahead."""
        copies = max(1, self.rollout_mesh.shape["data"] // self.slice.hosts)
        return unfinished_bytes(self.config, self.cfg, copies)

    @property
    def cache_bytes(self) -> CacheBytes:
        """The bytes of keys and values on each chip."""
        sides = self.rollout_mesh.shape
        with jax.set_mesh(self.rollout_mesh):
            return CacheBytes.of(
                self.cfg, self.rollout_shapes, groups=sides["data"], tensor=sides["tensor"]
            )

    @property
    def cache_figures(self) -> dict[str, int | float]:
        """For a file: the prompts and slots of a host, and what they take on a chip."""
        shapes, hosts, each = self.rollout_shapes, self.slice.hosts, self.cache_bytes
        return {
            "prompts": shapes.prefix_count // hosts,
            "prompt_ids": shapes.prefix_capacity,
            "slots": shapes.slots // hosts,
            "own_ids": shapes.own_capacity,
            "slots_a_chip": shapes.slots / len(self.slice.devices),
            "prompt_bytes": each.prompts,
            "own_bytes": each.own,
            "working_bytes": each.working,
        }

    @property
    def rollout_bytes(self) -> int:
        """The bytes of the weights that rollouts hold."""
        return bytes_per_chip(self.place(self.rollout_mesh))

    # ------------------------------------------------------------ how much there is to do

    def loads(self) -> dict[str, Load]:
        """The work of every program at the size that it is compiled for."""
        r, copies = self.config.rollout, self.rollout_mesh.shape
        rollout = rollout_loads(
            self.cfg,
            self.rollout_shapes,
            self.episode,
            prompts=r.prompts,
            episodes=r.prompts * r.rollouts,
            groups=copies["data"],
            tensor=copies["tensor"],
            base=self.config.model.base,
        )
        update = update_loads(
            self.cfg,
            self.train_shapes,
            self.layout,
            trainable=self.config.trainable,
            mini_batches=self.mini_batches,
            epochs=self.config.update.epochs,
            scored=self.scored,
            references=self.references,
            shards=self.shards,
            tensor=self.train_mesh.shape["tensor"],
        )
        asked = {}
        if self.target is not None:
            asked = self.target.loads(prompts=r.prompts)
        return rollout | asked | {"reshard": reshard_load(self.cfg, copies["tensor"])} | update


def _target(config: TrainConfig, where: Slice, mesh: Mesh) -> PlannedTarget | None:
    """The target of a run, if it is on its devices."""
    if config.target is None or not config.target.path:
        return None
    cfg = target_model_of(config.target, where.platform)
    return PlannedTarget.of(
        config.target,
        replace(cfg, remat="none", kernel=tuning(where.platform).kernel),
        mesh,
        hosts=where.hosts,
        question=max(config.rollout.prompt_text),
        boxes=config.rollout.rollouts,
        answers=asks_for_answers(config.rewards),
        likelihoods=bool(config.rewards.likelihood),
    )
