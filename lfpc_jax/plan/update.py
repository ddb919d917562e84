"""An update's programs for a slice, at their largest: the log-probabilities of a mini-batch, which
are computed before its updates, and the update itself."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.optimizer import OptimizerSettings, make_optimizer
from lfpc_jax.grpo.packing import empty_batch
from lfpc_jax.model import parameters
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan.programs import Uncompiled, placed
from lfpc_jax.shapes import TrainShapes
from lfpc_jax.trajectory import Batch


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
) -> Iterator[Uncompiled]:
    """The programs for each bucket of windows of a shard's pictures, the usual bucket first."""
    learner = _learner(cfg, mesh, trainable, objective, temperature)
    state = learner.abstract_state()
    usual = shapes.windows.sizes[0]
    for windows in shapes.windows.sizes:
        batch = _abstract_batch(learner, shapes, micro_batches=micro_batches, windows=windows)
        if name == "update" and objective.kl:
            batch = replace(batch, reference=batch.sampler)
        kinds: dict[str, Tree] = {"inputs": batch}
        if name == "update":
            kinds |= {"parameters": (state.trained, state.frozen), "moments": state.moments}
        else:
            kinds["parameters"] = parameters.whole(cfg, trainable, mesh)
        title = name if windows == usual else f"{name}, {windows} windows"
        program: Literal["logprobs", "update"] = "logprobs" if name == "score" else name
        yield Uncompiled(title, partial(learner.lowered, program, batch), kinds)


def abstract_state(cfg: ModelConfig, mesh: Mesh, trainable: Trainable) -> TrainState:
    """The state that training holds at all times."""
    return _learner(cfg, mesh, trainable, Objective()).abstract_state()


def abstract_reference(cfg: ModelConfig, mesh: Mesh, trainable: Trainable) -> Tree:
    """What training with a KL term holds beside its state: a whole copy of the parameters that it
    stays near. Frozen parts are copied too, since the state that they come from is donated."""
    return parameters.whole(cfg, trainable, mesh)


def _learner(
    cfg: ModelConfig,
    mesh: Mesh,
    trainable: Trainable,
    objective: Objective,
    temperature: float = 1.0,
) -> Learner:
    return Learner(
        cfg,
        make_optimizer(OptimizerSettings(), updates=1),
        objective=objective,
        trainable=trainable,
        allowed=np.ones(cfg.text.vocab, bool),
        mesh=mesh,
        temperature=temperature,
    )


def _abstract_batch(
    learner: Learner, shapes: TrainShapes, *, micro_batches: int, windows: int
) -> Batch:
    """The batch that `grpo.packing` makes of all processes' episodes, as the learner places it."""
    sides = learner.mesh.shape
    make = partial(
        empty_batch,
        shapes,
        learner.cfg.vision.processor,
        shards=sides["data"] * sides["fsdp"],
        micro_batches=micro_batches,
        windows=windows,
        xp=jnp,
    )
    batch = jax.eval_shape(make)
    batch = replace(batch, old=batch.sampler)
    return placed(batch, learner.batch_shardings(batch))
