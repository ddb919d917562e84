"""Prints everything that a config amounts to, before anything is loaded or compiled, and what its
sets hold."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import parameters, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.spec import is_param, spec_tree
from lfpc_jax.model.tuning import tuning
from lfpc_jax.plan.counts import CacheBytes
from lfpc_jax.plan.episodes import layout_of, planned_episode, planned_items
from lfpc_jax.plan.run import model_of, target_model_of
from lfpc_jax.remote.hub import NotHere
from lfpc_jax.run import progress
from lfpc_jax.run.building import dialogue_of, memory_of, remat_of, room_for
from lfpc_jax.run.config import TrainConfig, described, updates_of
from lfpc_jax.run.models import assets_of, here
from lfpc_jax.run.prompt_lengths import MeasuredSet, check_fits
from lfpc_jax.run.training_data import first_look
from lfpc_jax.shapes import RolloutShapes, TrainShapes

_GiB = 2**30


def print_plan(config: TrainConfig) -> None:
    console = Console()
    console.print_json(json.dumps(described(config)))
    cfg = replace(model_of(config), kernel=config.model.kernel)
    for path in (config.model.path, config.target.path if config.target else ""):
        if path and not here(Path(path)).exists():
            console.print(f"{path} is not here: planned with the published model of that size")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    rollout = config.rollout_shapes(cfg.vision.window, _groups(config))
    train = config.train_shapes(cfg.vision.window)
    room = sampled_at_most(config, rollout)
    lengths = {
        "prompts and rollouts a step": f"{config.rollout.prompts} x {config.rollout.rollouts}",
        "updates of the run": updates_of(config),
        "ids of an episode, at most": rollout.capacity,
        "tokens sampled in a turn, at most": config.rollout.turn_tokens,
        "in an episode, without crops": room[0],
        f"in an episode, with {len(room) - 1} full crops": room[-1],
        "prompts in memory, a process": f"{rollout.prefix_count} of at most "
        f"{rollout.prefix_capacity} ids, each for up to {rollout.members} rollouts",
        "slots, a process": f"{rollout.slots} with room for {rollout.own_capacity} ids after the "
        "prompt",
        "windows of a shown image": rollout.image_windows.sizes,
        "windows of a crop": rollout.crop_windows.sizes,
        "a micro-batch on each shard": f"{train.rows} x {train.row_tokens} tokens, "
        f"and of pictures {train.windows} windows",
        "places for tokens that count, a row": train.all_places,
        **_expected(config, cfg, mesh, rollout, train),
        "mesh": dict(mesh.shape),
    }
    table = Table("what", "value", title="Shapes")
    for name, value in lengths.items():
        table.add_row(name, str(value))
    console.print(table)
    console.print(_memory(config, cfg, mesh.size))


def print_data(config: TrainConfig) -> None:
    """Reads each set's rows, its first pictures and the lengths of some prompts, and prints the
    counts. Raises what a run would raise for a set that cannot be read or shown."""
    path = here(Path(config.model.path))
    dialogue = dialogue_of(config, assets_of(path)) if path.exists() else None
    columns = ("set", "used for", "records", "left out", "first pictures", "longest prompt")
    table = Table(*columns, title="Data")
    trained: list[MeasuredSet] = []
    validated: list[MeasuredSet] = []
    for use, sources in (("train", config.data.train), ("validation", config.data.validation)):
        for source in sources:
            try:
                with progress.waiting(f"reading {source.path}"):
                    seen = first_look(source, config, dialogue)
            except NotHere:
                table.add_row(source.path, use, "still on the Hub", "", "", "")
                continue
            pictures = f"{seen.pictures} of {seen.tried} read"
            longest = f"{seen.prompts.longest} text tokens" if seen.prompts else "not measured"
            table.add_row(source.path, use, str(seen.records), seen.left_out, pictures, longest)
            if seen.prompts:
                sets = trained if use == "train" else validated
                sets.append((source.path, source.weight, seen.prompts))
    Console().print(table)
    if dialogue is None:
        print(f"{path} is not here, so whether prompts fit is not known", file=sys.stderr)
    check_fits(config, trained)
    for name, _, lengths in (trained if config.stage == "grpo" else []) + validated:
        if told := lengths.told(name, config.rollout):
            print(f"warning: {told}", file=sys.stderr)


def sampled_at_most(config: TrainConfig, shapes: RolloutShapes) -> list[int]:
    """How many tokens an episode with the longest prompt may sample, by its number of crops of full
    size: what its rules allow and its context has room for."""
    left = shapes.capacity - shapes.image_tokens - shapes.prompt_text.sizes[-1]
    observed = shapes.crop_tokens + shapes.observation_text
    return [
        max(0, min(config.rules.most_sampled, left - crops * observed))
        for crops in range(config.rollout.max_turns)
    ]


def _expected(
    config: TrainConfig, cfg: ModelConfig, mesh: Mesh, rollout: RolloutShapes, train: TrainShapes
) -> dict[str, str]:
    """What the packer makes of a mini-batch of planned episodes, and what updates save."""
    episode = planned_episode(config, None, None)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    u, r = config.update, config.rollout
    items = planned_items(episode, cfg, rollout, groups=u.mini_batch, rollouts=r.rollouts)
    platform = tuning().platform
    layout = layout_of(items, train, cfg, shards=shards, platform=platform)
    device = jax.local_devices()[0]
    room = room_for(
        config, cfg, mesh.shape, platform=platform, memory=memory_of(device), copies=_groups(config)
    )
    return {
        "expected fill of rows and windows": f"{layout.fill:.2f} and {layout.windows_fill:.2f} "
        f"(episodes of {episode.sampled} sampled tokens and {episode.crops} crops)",
        "micro-batches of an update": f"{layout.rows} of rows, {layout.pictures} of pictures",
        "a prompt is computed": f"{layout.copies:.1f} times in an update",
        "updates save": str(remat_of(config, cfg, room)),
    }


def _memory(config: TrainConfig, cfg: ModelConfig, devices: int) -> Table:
    """Arrays that are always there. Activations are known to the compiler only (lfpc plan)."""
    trained, rest = parameters.specs(cfg, config.trainable)
    part, frozen = _count(trained), _bytes(rest, cfg)
    narrow = jnp.dtype(cfg.dtype).itemsize
    copies = max(1, devices // config.rollout.tensor)
    rows = {
        "trained parameters, float32": 4 * part,
        **({} if config.moments_on_host else {"Adam's two moments": 8 * part}),
        "gradients, float32": 4 * part,
        f"trained parameters, {cfg.dtype}": narrow * part,
        "frozen parameters": frozen,
    }
    if config.update.objective.kl:
        rows["reference's parameters"] = narrow * part
    table = Table("what", "GiB in all", "GiB a device", title="Memory, without activations")
    for name, size in rows.items():
        table.add_row(name, f"{size / _GiB:.2f}", f"{size / _GiB / devices:.2f}")
    shared = devices == config.rollout.tensor == 1  # frozen parameters are the updates' own
    whole = narrow * part if shared and frozen else _bytes([trained, rest], cfg)
    table.add_row("rollout's parameters", f"{whole * copies / _GiB:.2f}",
                  f"{whole / _GiB / config.rollout.tensor:.2f}")  # fmt: skip
    if config.target is not None and config.target.path:
        other = target_model_of(config.target)
        held = jnp.dtype(other.dtype).itemsize * _count(spec_tree(other))
        table.add_row("target's parameters", f"{held * copies / _GiB:.2f}",
                      f"{held / _GiB / config.rollout.tensor:.2f}")  # fmt: skip
    _add_cache(table, config, cfg)
    return table


def _add_cache(table: Table, config: TrainConfig, cfg: ModelConfig) -> None:
    """Keys and values of a process."""
    groups = _groups(config)
    shapes = config.rollout_shapes(cfg.vision.window, groups)
    in_all = CacheBytes.of(cfg, shapes)
    on_each = CacheBytes.of(cfg, shapes, groups=groups, tensor=config.rollout.tensor)
    for name, whole, part in (
        ("rollout's prompts, a process", in_all.prompts, on_each.prompts),
        ("rollout's slots, a process", in_all.own, on_each.own),
        ("their working copies in decode", in_all.working, on_each.working),
    ):
        if whole:
            table.add_row(name, f"{whole / _GiB:.2f}", f"{part / _GiB:.2f}")


def _groups(config: TrainConfig) -> int:
    """How many copies of the model the rollouts of this process have."""
    return max(1, jax.local_device_count() // config.rollout.tensor)


def _bytes(tree: Tree, cfg: ModelConfig) -> int:
    """The bytes of a tree of `Param` in the dtype that is computed with."""
    arrays = jax.tree.leaves(spec.abstract_of(tree, cfg.dtype))
    return sum(x.size * x.dtype.itemsize for x in arrays)


def _count(tree: Tree) -> int:
    return sum(math.prod(p.array_shape) for p in jax.tree.leaves(tree, is_leaf=is_param))
