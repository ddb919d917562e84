"""An update's programs for a slice: scoring a mini-batch, and the step itself, at their largest."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lfpc_jax.distributed.sharding import RULES
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.optimizer import OptimizerSettings, make_optimizer
from lfpc_jax.grpo.trained import Trained
from lfpc_jax.grpo.update import Learner
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.plan.programs import Compiled, compiled
from lfpc_jax.shapes import TrainShapes
from lfpc_jax.trajectory import Batch, PackedImages, Tokens


def compile_update(
    cfg: ModelConfig,
    mesh: Mesh,
    shapes: TrainShapes,
    *,
    micro_batches: int,
    windows: int,
    objective: Objective | None = None,
    how: Trained | None = None,
) -> Iterator[Compiled]:
    """For `windows` of pictures on each shard, one of the buckets of `shapes`."""
    learner = Learner(
        cfg,
        make_optimizer(OptimizerSettings(), updates=1),
        objective=objective or Objective(),
        how=how or Trained(),
        allowed=np.ones(cfg.text.vocab, bool),
        mesh=mesh,
    )
    batch = abstract_batch(cfg, mesh, shapes, micro_batches=micro_batches, windows=windows)
    for name in ("score", "update"):
        start = time.perf_counter()
        yield compiled(name, learner.lowered(name, batch), start)


def abstract_batch(
    cfg: ModelConfig, mesh: Mesh, shapes: TrainShapes, *, micro_batches: int, windows: int
) -> Batch:
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    M, B = micro_batches, shards * shapes.rows

    def array(shape: tuple[int, ...], dtype: Any, rows: int = 1) -> jax.ShapeDtypeStruct:
        placed = NamedSharding(mesh, PartitionSpec(*(None,) * rows, RULES["batch"]))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)

    row = array((M, B, shapes.row_tokens), jnp.int32)
    number = array((M, B, shapes.row_tokens), jnp.float32)
    c = cfg.vision
    packed = (M, shards, windows)
    images = PackedImages(
        pixels=array((*packed, c.window_patches, 3 * c.patch**2), jnp.uint8),
        picture=array(packed, jnp.int32),
        grid=array((*packed, 2), jnp.int32),
        window=array(packed, jnp.int32),
    )
    positions = array((M, 3, B, shapes.row_tokens), jnp.int32, rows=2)
    return Batch(Tokens(row, positions, row, row), images, number, number, number, old=number)
