"""An update's programs for a slice: scoring a mini-batch, and the step itself, at their largest."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import RULES
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.optimizer import OptimizerSettings, make_optimizer
from lfpc_jax.model import parameters
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan.programs import Source
from lfpc_jax.shapes import TrainShapes
from lfpc_jax.trajectory import Batch, PackedImages, Tokens


def update_programs(
    cfg: ModelConfig,
    mesh: Mesh,
    shapes: TrainShapes,
    name: Literal["score", "update"],
    *,
    micro_batches: int,
    objective: Objective,
    trainable: Trainable,
    temperature: float = 1.0,
) -> Iterator[Source]:
    """For each bucket of windows of a shard's pictures, the usual one first."""
    learner = _learner(cfg, mesh, trainable, objective, temperature)
    state = learner.abstract_state()
    for windows in shapes.windows.sizes:
        batch = abstract_batch(cfg, mesh, shapes, micro_batches=micro_batches, windows=windows)
        if name == "update" and objective.kl:
            batch = replace(batch, reference=batch.sampler)
        kinds: dict[str, Any] = {"inputs": batch}
        if name == "score":
            kinds["parameters"] = parameters.whole(cfg, trainable, mesh)
        else:
            kinds |= {"parameters": (state.trained, state.frozen), "moments": state.moments}
        usual = windows == shapes.windows.sizes[0]
        shown = name if usual else f"{name}, {windows} windows"
        program: Literal["logprobs", "update"] = "logprobs" if name == "score" else name
        yield Source(shown, partial(learner.lowered, program, batch), kinds)


def abstract_state(cfg: ModelConfig, mesh: Mesh, trainable: Trainable) -> TrainState:
    """What training holds at all times."""
    return _learner(cfg, mesh, trainable, Objective()).abstract_state()


def abstract_reference(cfg: ModelConfig, mesh: Mesh, trainable: Trainable) -> Tree:
    """What training holds beside it, with a KL term: a whole copy to stay near, frozen parts and
    all, since the state that they come from is donated."""
    return parameters.whole(cfg, trainable, mesh)


def _learner(
    cfg: ModelConfig,
    mesh: Mesh,
    trainable: Trainable,
    objective: Objective,
    temperature: float = 1.0,
) -> Learner:
    optimizer = make_optimizer(OptimizerSettings(), updates=1)
    allowed = np.ones(cfg.text.vocab, bool)
    return Learner(
        cfg,
        optimizer,
        objective=objective,
        trainable=trainable,
        allowed=allowed,
        mesh=mesh,
        temperature=temperature,
    )


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
    span = shapes.span_of(windows)
    packed = (M, shards, windows // span, span)
    images = PackedImages(
        pixels=array((*packed, c.window_patches, 3 * c.patch**2), jnp.uint8),
        picture=array(packed, jnp.int32),
        grid=array((*packed, 2), jnp.int32),
        window=array(packed, jnp.int32),
    )
    positions = array((M, 3, B, shapes.row_tokens), jnp.int32, rows=2)
    tokens = Tokens(row, positions, row, row, prefix=row if shapes.shared else None)
    return Batch(tokens, images, number, number, number, old=number)
