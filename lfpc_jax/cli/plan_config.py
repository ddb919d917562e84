"""Every program of a training run, compiled for a slice that is not there."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from jax.sharding import Mesh

from lfpc_jax.cli.dry_run import model_of
from lfpc_jax.config import TrainConfig
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config as model_config
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.plan import flops
from lfpc_jax.plan.programs import Compiled
from lfpc_jax.plan.rollout import compile_rollout
from lfpc_jax.plan.slices import Slice
from lfpc_jax.plan.update import compile_update
from lfpc_jax.shapes import micro_batches_for

ADVICE = {
    "update": "lower update.rows or rollout.capacity, set model.remat full, raise mesh.tensor, "
    "freeze the tower (model.train_vision false), use model.lora, or take a larger slice",
    "rollout": "lower rollout.slots or rollout.capacity, or raise rollout.tensor",
}


@dataclass(frozen=True)
class Planned:
    """A program, the mesh it runs on, and its FLOPs a chip where they are counted."""

    kind: str
    mesh: Mesh
    compiled: Compiled
    flops_per_chip: float | None = None


def compile_config(config: TrainConfig, tpu: Slice) -> Iterator[Planned]:
    cfg = config_model(config)
    train = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices=tpu.devices)
    # Every host rolls out alone, but slices without free routing are compiled for whole: what all
    # hosts do side by side needs as much on each chip.
    hosts = len({device.process_index for device in tpu.devices})
    rollout = make_mesh(-1, 1, config.rollout.tensor, devices=tpu.devices)
    own = config.rollout_shapes(cfg.vision.window, rollout.shape["data"] // hosts)
    shapes = replace(
        own,
        slots=own.slots * hosts,
        prefill_rows=own.prefill_rows * hosts,
        extend_rows=own.extend_rows * hosts,
    )
    for compiled in compile_rollout(replace(cfg, remat="none"), rollout, shapes):
        yield Planned("rollout", rollout, compiled)
    learned = config.train_shapes(cfg.vision.window)
    shards = train.shape["data"] * train.shape["fsdp"]
    rows = config.update.mini_batch * config.rollout.rollouts
    many = micro_batches_for(-(-rows // (shards * learned.rows)))
    windows = learned.windows.sizes[-1]
    tokens = learned.row_tokens * learned.rows * many
    counted = {
        "update": flops.update(
            cfg,
            tokens=tokens,
            context=learned.row_tokens / 2,
            windows=windows * many,
            whole=windows,
        )
        / train.shape["tensor"]
    }
    for compiled in compile_update(
        cfg,
        train,
        learned,
        micro_batches=many,
        windows=windows,
        objective=config.update.objective,
        how=config.trained,
    ):
        yield Planned("update", train, compiled, counted.get(compiled.program))


def config_model(config: TrainConfig) -> ModelConfig:
    """The model as it would compute on TPUs; of a folder that is not here, by the size in its
    name."""
    path = Path(config.model.path)
    size = re.search(r"(\d+)b", path.name.lower())
    if path.exists() or size is None:
        cfg = model_of(config)
    else:
        cfg = model_config.published(f"{size.group(1)}b")
    kernel = "splash" if config.model.kernel == "auto" else config.model.kernel
    return replace(cfg, dtype="bfloat16", remat=config.model.remat, kernel=kernel)
